_base_ = './mobilenet-v2-x050-relu_8xb32-300e_in1k.py'
model = dict(backbone=dict(act_cfg=dict(type='DyReLUB')))
