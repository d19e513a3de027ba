_base_ = './resnet18-relu_16xb64-100e_in1k.py'
model = dict(backbone=dict(act_cfg=dict(type='PWLU')))
custom_hooks = [dict(type='PWLURealignHook', phase1=5)]
