# AReLU paper, Table 8.
_base_ = ['../_base_/cifar.py', 'mmpretrain::resnet/resnet18_8xb16_cifar10.py']
recipe = _base_.cifar10_arelu
optim_wrapper = dict(optimizer=dict(_delete_=True, **recipe.optimizer))
param_scheduler = dict(_delete_=True, by_epoch=True, **recipe.param_scheduler)
train_cfg = dict(max_epochs=recipe.max_epochs)
train_dataloader = dict(batch_size=recipe.batch_size)
