# Dynamic ReLU C (K = 2, R = 8) in a network whose weights were trained with ReLU. As in the paper,
# it would start as a third of ReLU, because its attention is 1/3 on average (Eq. 5), and
# normalisation with fixed statistics would not make up for that. So this is three times the
# paper's function.
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)
dyreluc = dict(type='DyReLUC', alphas=(3.0, 0.0), lambda_a=3.0, lambda_b=1.5)
