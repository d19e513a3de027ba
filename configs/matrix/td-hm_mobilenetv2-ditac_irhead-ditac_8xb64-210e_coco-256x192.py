_base_ = '../dyrelu/td-hm_mobilenetv2-relu_irhead-relu_8xb64-210e_coco-256x192.py'
model = dict(backbone=dict(act_cfg=dict(type='DiTAC')), head=dict(act_cfg=dict(type='DiTAC')))
optim_wrapper = dict(constructor='ActivationParamConstructor')
