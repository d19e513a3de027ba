_base_ = './td-hm_mobilenetv2-relu_irhead-relu_8xb64-210e_coco-256x192.py'
model = dict(
    backbone=dict(_delete_=True, type='mmact.MobileNetV3', arch='large'),
    head=dict(in_channels=960),
)
