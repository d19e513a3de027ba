_base_ = './mobilenet-v3-small-relu_16xb64-350e_in1k.py'
model = dict(backbone=dict(act_cfg=dict(type='PWLU')))
custom_hooks = [dict(type='PWLURealignHook', phase1=5)]
