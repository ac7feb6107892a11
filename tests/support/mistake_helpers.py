"""Functions in another file than the objectives that call them."""


def seventh(x):
    return x[:, 7]


def halved(loss):
    return loss / 2 if loss > 1.0 else loss
