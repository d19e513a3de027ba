_base_ = './mask-rcnn_r50-scratch-relu_fpn_syncbn_270k_coco.py'
model = dict(backbone=dict(act_cfg=dict(_delete_=True, type='FReLU')))
