# 100 iterations more of the trained ReLU detector, at a tenth of its learning rate.
_base_ = './mask-rcnn_relu_mini-coco.py'

load_from = 'work_dirs/demo-convert/relu/iter_400.pth'
train_cfg = dict(max_iters=100, val_interval=100)
param_scheduler = []
optim_wrapper = dict(optimizer=dict(lr=0.0001))
