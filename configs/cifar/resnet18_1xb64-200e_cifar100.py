# AReLU paper, Figure 4 and Table 7.
_base_ = ['../_base_/cifar.py', 'mmpretrain::resnet/resnet50_8xb16_cifar100.py']
recipe = _base_.cifar100_arelu
optim_wrapper = dict(optimizer=dict(_delete_=True, **recipe.optimizer))
param_scheduler = dict(_delete_=True, by_epoch=True, **recipe.param_scheduler)
train_cfg = dict(max_epochs=recipe.max_epochs)
train_dataloader = dict(batch_size=recipe.batch_size)
model = dict(backbone=dict(depth=18), head=dict(in_channels=512))
