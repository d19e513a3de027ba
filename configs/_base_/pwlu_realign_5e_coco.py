# Phase I of PWLU's learning: T' = 5 epochs, as in the paper's ImageNet set-up, in iterations of
# 8 x 2 images. An epoch is the 117266 images of COCO train2017 that have annotations: the others
# are left out of the training (filter_empty_gt).
custom_hooks = [dict(type='PWLURealignHook', phase1=5 * 117266 // 16, by_epoch=False)]
