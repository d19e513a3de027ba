_base_ = './mobilenet-v3-small-relu_8xb32-300e_in1k.py'
# Without squeeze-and-excitation, as in the paper.
model = dict(backbone=dict(act_cfg=dict(type='DyReLUB'), se=False))
