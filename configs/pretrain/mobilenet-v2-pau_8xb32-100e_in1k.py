# PAU has the optimizer of all other layers here, weight decay included (section A.4.1).
_base_ = ['./mobilenet-v2-relu_8xb32-100e_in1k.py', '../_base_/pau.py']
model = dict(backbone=dict(act_cfg=_base_.pau))
