"""The registries find this package's classes when they are asked, and not while `basicsr` is imported."""

import pytest


@pytest.mark.parametrize(
    'ask',
    [
        "'EFAR' in ARCH_REGISTRY",
        "ARCH_REGISTRY.get('EFAR').__name__ == 'EFAR'",
        "'EFAR' in ARCH_REGISTRY.keys()",
        "'EFAR' in dict(iter(ARCH_REGISTRY))",
    ],
)
def test_classes_are_imported_when_asked_for(run, tmp_path, ask):
    code = """
import sys
import basicsr
from basicsr.utils.registry import ARCH_REGISTRY, Registry
print('EFAR' in ARCH_REGISTRY._obj_map, Registry.__contains__.__wrapped__(ARCH_REGISTRY, 'EFAR'))
print({})
print('basicsr_plugins.models.vsr_model' in sys.modules)
"""
    result = run('python', '-c', code.format(ask), cwd=tmp_path)
    assert result.stdout.split() == ['False', 'False', 'True', 'True']
