_base_ = './resnet10-relu_8xb32-90e_in1k.py'
model = dict(backbone=dict(act_cfg=dict(type='DyReLUB')))
