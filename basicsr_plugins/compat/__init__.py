"""What BasicSR 1.4.2 needs on today's stack: one patch per function, listed in docs/compat.md.

Each patch looks whether it is needed and does nothing where it is not. Those in `imports` must run before `basicsr` is
imported, the others after.
"""

from __future__ import annotations


def apply_before_import() -> None:
    """Apply the patches without which `import basicsr` fails."""
    from basicsr_plugins.compat import imports

    for patch in imports.PATCHES:
        patch()


def apply() -> None:
    """Apply all patches. Calling it again is harmless."""
    apply_before_import()

    from basicsr_plugins.compat import devices, images, loading, networks, options, registries, reporting, resume

    for module in (registries, options, loading, devices, resume, networks, images, reporting):
        for patch in module.PATCHES:
            patch()


# The patches' modules import parts of BasicSR. It is imported whole before the first of them starts, because the hook
# applies the patches at the end of that import, and they must be complete by then.
import basicsr  # noqa: E402, F401
