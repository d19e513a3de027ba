_base_ = './td-hm_mobilenetv2-x05-relu_irhead-relu_8xb64-210e_coco-256x192.py'
model = dict(backbone=dict(act_cfg=dict(type='DyReLUB')), head=dict(act_cfg=dict(type='DyReLUA')))
