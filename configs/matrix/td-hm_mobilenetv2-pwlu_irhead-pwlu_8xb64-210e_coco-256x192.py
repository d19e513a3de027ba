_base_ = '../dyrelu/td-hm_mobilenetv2-relu_irhead-relu_8xb64-210e_coco-256x192.py'
model = dict(backbone=dict(act_cfg=dict(type='PWLU')), head=dict(act_cfg=dict(type='PWLU')))
optim_wrapper = dict(constructor='ActivationParamConstructor')
custom_hooks = [*_base_.custom_hooks, dict(type='PWLURealignHook', phase1=5)]
