"""Operations on tensors, one file each: formula, shapes, plain-PyTorch reference, public name.

This package knows nothing of models or mazes. Nothing is exported here, so that
`kernels.attention_block` stays the file and not the function of that name.
"""
