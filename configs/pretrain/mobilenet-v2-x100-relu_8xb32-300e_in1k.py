_base_ = '../_base_/imagenet_dyrelu.py'
model = dict(train_cfg=_base_.mixup)
train_dataloader = dict(dataset=dict(pipeline=_base_.jittered))
