_base_ = './mask-rcnn_r50-scratch-relu_fpn_syncbn_270k_coco.py'
# SiLU is Swish with beta = 1, and in PyTorch one fused operation.
model = dict(backbone=dict(act_cfg=dict(_delete_=True, type='SiLU')))
