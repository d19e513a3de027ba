_base_ = '../_base_/imagenet_dyrelu.py'
model = dict(backbone=dict(widen_factor=0.35), head=dict(dropout_rate=0.1))
optim_wrapper = dict(optimizer=dict(weight_decay=2e-5))
train_dataloader = dict(dataset=dict(pipeline=_base_.jittered))
