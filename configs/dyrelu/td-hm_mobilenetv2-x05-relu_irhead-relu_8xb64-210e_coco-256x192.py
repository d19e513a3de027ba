_base_ = './td-hm_mobilenetv2-relu_irhead-relu_8xb64-210e_coco-256x192.py'
model = dict(backbone=dict(widen_factor=0.5))
