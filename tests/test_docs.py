"""What the documents say is so: files that they name, commands and their flags, and the example network."""

import re

import pytest
import torch

from basicsr_plugins import commands

from .conftest import PROJECT

DOCUMENTS = [PROJECT / 'README.md', PROJECT / 'CONTRIBUTING.md', *sorted((PROJECT / 'docs').glob('*.md'))]
TEXT = {path.name: path.read_text(encoding='utf-8') for path in DOCUMENTS}
EVERYTHING = '\n'.join(TEXT.values())
LMDB_COMMANDS = ('reds', 'folder', 'verify')


def test_files_that_are_named_are_there():
    names = set(re.findall(r'(?:scripts|options|basicsr_plugins|tests)/[a-z_0-9/]+\.\w+', EVERYTHING))
    names |= {f'options/{name}' for name in re.findall(r'`((?:train|test|benchmark)_\w+\.yml)`', EVERYTHING)}
    assert len(names) > 15
    assert [name for name in sorted(names) if not (PROJECT / name).exists()] == []


def test_option_files_are_all_documented():
    assert [path.name for path in sorted((PROJECT / 'options').glob('*.yml')) if path.name not in EVERYTHING] == []


def command_lines():
    """(command, what follows) of every `basicsr-plugins` line in the documents' shell blocks."""
    for block in re.findall(r'^ *```bash\n(.*?)^ *```', EVERYTHING, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace('\\\n', ' ').splitlines():
            match = re.search(r'(?:basicsr-plugins|-m basicsr_plugins) ([\w-]+)([^#]*)', line)
            if match:
                yield match[1], match[2]


@pytest.mark.parametrize('name', sorted({name for name, _ in command_lines()}))
def test_flags_of_the_commands_are_there(name, capsys):
    for arguments in (rest for command, rest in command_lines() if command == name):
        part = [word for word in arguments.split()[:1] if word in LMDB_COMMANDS]
        with pytest.raises(SystemExit):
            commands.main([name, *part, '--help'])
        shown = capsys.readouterr().out
        for flag in re.findall(r'(?<!\S)--?[a-z][\w-]*', arguments):
            assert re.search(rf'{flag}\b', shown), f'{name} has no {flag}'


def test_the_example_network_is_causal_and_learns(monkeypatch):
    from basicsr.archs import build_network
    from basicsr.utils.registry import ARCH_REGISTRY

    monkeypatch.setattr(ARCH_REGISTRY, '_obj_map', dict(iter(ARCH_REGISTRY)))  # it is registered here and nowhere else
    code = re.search(r'```python\n(""".*?)```', TEXT['adding_a_network.md'], flags=re.DOTALL)[1]
    exec(compile(code, 'toy_arch.py', 'exec'), {'__name__': 'toy_arch'})
    torch.manual_seed(0)
    net = build_network({'type': 'Toy', 'num_feat': 4, 'scale': 2})
    assert sum(p.numel() for p in net.parameters()) == 10 * 4 * 9 + 4 + 4 * 12 * 9 + 12
    frames = torch.rand(1, 4, 3, 8, 9)
    changed = frames.clone()
    changed[:, 2] = 0
    before, after = net(frames), net(changed)
    assert before.shape == (1, 4, 3, 16, 18)
    assert torch.equal(before[:, :2], after[:, :2])  # no output sees a later frame
    assert not torch.equal(before[:, 3], after[:, 3])  # and the last sees earlier ones
    before.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())
