# PAU has the optimizer of all other layers here, weight decay included (section A.4.1).
_base_ = './mobilenet-v2-relu_8xb32-100e_in1k.py'
pau = dict(type='PAU', m=5, n=4, init='leaky_relu_0.01', num_groups=1)
model = dict(backbone=dict(act_cfg=pau))
