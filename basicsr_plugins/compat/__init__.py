"""What BasicSR 1.4.2 needs on today's stack, one patch per function."""


def apply_before_import():
    from basicsr_plugins.compat import imports

    for patch in imports.PATCHES:
        patch()


def apply():
    apply_before_import()
