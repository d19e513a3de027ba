_base_ = '../_base_/imagenet_dyrelu.py'
model = dict(backbone=dict(widen_factor=0.5))
train_dataloader = dict(dataset=dict(pipeline=_base_.jittered))
