"""What a section of options may hold: typed keys with ranges, and the one function that checks them.

A schema maps the names of keys to `Key`s; the name `*` stands for every other key. The keys of a constructor come from
its signature (`keys_of`), so that nothing is declared twice.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Union

from basicsr_plugins.errors import InputError, suggest

# kind -> what a message calls it (one, several) and the values it takes
KINDS = {
    'any': ('anything', 'anything', lambda value: True),
    'None': ('empty (~)', '', lambda value: value is None),
    'bool': ('true or false', 'true or false', lambda value: isinstance(value, bool)),
    'int': ('a whole number', 'whole numbers', lambda value: isinstance(value, int) and not isinstance(value, bool)),
    'count': ('a whole number', 'whole numbers', lambda value: _is_number(value) and value == int(value)),  # also 5e3
    'float': ('a number', 'numbers', lambda value: _is_number(value)),
    'str': ('a text', 'texts', lambda value: isinstance(value, str) and value.strip() != ''),
    'name': ('the name of a folder, without slashes', '', lambda value: _is_folder_name(value)),
    'list': ('a list', 'lists', lambda value: isinstance(value, (list, tuple))),
    'dict': ('a section (KEY: VALUE)', 'sections', lambda value: isinstance(value, Mapping)),
}


class OptionError(InputError):
    """A wrong option. `path` leads to it from the top of the options; to a section where one of its keys is missing."""

    def __init__(self, message: str, path: tuple[str, ...] = ()):
        super().__init__(message)
        self.path = path


@contextmanager
def located(*path: str) -> Iterator[None]:
    """Say of what is refused inside where in the options it stands, from the place that is known already."""
    try:
        yield
    except InputError as error:
        raise OptionError(str(error), (*path, *getattr(error, 'path', ()))) from error


@dataclass(frozen=True)
class Key:
    """What one key of a section may hold.

    Args:
        kind: Names of `KINDS`, and `list[...]` of one of them, joined by ` | `, as in a type hint.
        required: Whether it must be there.
        default: Its value where it is not there, for print only; None if that is unknown.
        low, high: Least and greatest number, or item of a list.
        above, below: The same, but not these themselves.
        choices: The texts that it may be; where `kind` has no `str`, texts that it may be instead.
        noun: What a choice is, where it is the name of something registered: `network`.
        least, most: Number of items of a list.
        keys: The schema of the section that it holds, or a function from that section to its schema.
    """

    kind: str = 'any'
    required: bool = False
    default: object = None
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    noun: str = ''
    least: int = 1
    most: int | None = None
    keys: Union[Mapping[str, Key], Callable[[Mapping], Mapping[str, Key]], None] = None

    def check(self, value: object, path: tuple[str, ...]) -> None:
        """Refuse a value of another kind or beyond the range.

        Raises:
            OptionError: Naming `path` and the value.
        """
        if self.choices and isinstance(value, str):
            if value not in self.choices:
                raise OptionError(self._unknown(value, path), path)
        elif not any(self._fits(value, kind) for kind in self.kind.split(' | ')):
            quotes = "; put names that are numbers in quotes ('000')" if _wants_quotes(self.kind, value) else ''
            message = f'{": ".join(path)} must be {self.describe()}, but is {_shorten(value)}{quotes}.'
            raise OptionError(message, path)
        if isinstance(value, Mapping) and self.keys is not None:
            check_section(value, self.keys(value) if callable(self.keys) else self.keys, *path)

    def _unknown(self, value: str, path: tuple[str, ...]) -> str:
        hint = suggest(value, self.choices)
        if self.noun:
            return f'{": ".join(path[:-1])}: there is no {self.noun} {value!r} in the registry; {hint}'
        return f'{": ".join(path)} cannot be {value!r}; {hint}'

    def _fits(self, value: Any, kind: str) -> bool:
        if kind.startswith('list'):
            if not isinstance(value, (list, tuple)) or len(value) < self.least:
                return False
            of = kind[len('list[') : -1] or 'any'
            return (self.most is None or len(value) <= self.most) and all(self._fits(item, of) for item in value)
        if not KINDS[kind][2](value):
            return False
        if kind not in ('int', 'count', 'float'):
            return True
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def describe(self) -> str:
        """Kind and range in words: `a whole number from 1 to 1024`."""
        one_of = f'the name of a {self.noun}' if self.noun else f'one of {", ".join(self.choices)}'
        words = [one_of] if self.choices else []
        for kind in self.kind.split(' | '):
            if kind == 'str' and self.choices:
                continue
            of = re.fullmatch(r'list\[(\w+)\]', kind)
            text = f'a list of {self._length()}{KINDS[of[1]][1]}' if of else KINDS[kind][0]
            words.append(text + (self._range() if (of[1] if of else kind) in ('int', 'count', 'float') else ''))
        return ' or '.join(words)

    def _length(self) -> str:
        if self.most is None:
            return ''
        return f'{self.most} ' if self.least == self.most else f'{self.least} to {self.most} '

    def _range(self) -> str:
        start = f' from {self.low:g}' if self.low is not None else ''
        start = f' above {self.above:g}' if self.above is not None else start
        end = f' to {self.high:.10g}' if self.high is not None else ''
        end = f' below {self.below:g}' if self.below is not None else end
        return start + end if end or self.low is None else f'{start} on'


Schema = Mapping[str, Key]


def check_section(options: Mapping, schema: Schema, *path: str) -> None:
    """Refuse unknown and missing keys, and values of another kind or beyond their range, here and in sections below.

    Args:
        options: The section.
        schema: What it may hold.
        path: Where it is, for messages, as in `'datasets', 'train'`.

    Raises:
        OptionError: Naming the key and, for an unknown one, the nearest valid one.
    """
    where = f'{": ".join(path)}: ' if path else ''
    for name, value in options.items():
        key = schema.get(name, schema.get('*'))
        if key is None:
            known = [known for known in schema if known != '*']
            raise OptionError(f'{where}there is no key {name!r}; {suggest(name, known)}', (*path, name))
        key.check(value, (*path, str(name)))
    for name, key in schema.items():
        if key.required and name not in options:
            raise OptionError(f'{where}the key {name!r} is missing.', path)


def keys_of(
    function: Callable, ranges: Mapping[str, tuple] | None = None, skip: Collection[str] = (), closed: bool = False
) -> dict[str, Key]:
    """The keys that the arguments of a function or of a class's constructor make.

    Args:
        function: Its type hints say what an argument may be; where there is none, its default does.
        ranges: Of arguments: least and greatest number, or the texts that there are.
        skip: Arguments that do not come from options.
        closed: Whether `**kwargs` takes no keys: they are there to be ignored.
    """
    keys = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD and not closed:
            keys['*'] = Key()
        if name in skip or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        required = parameter.default is parameter.empty
        default = None if required else parameter.default
        span = (ranges or {}).get(name, ())
        is_choice = bool(span) and all(isinstance(value, str) for value in span)
        low, high = (None, None) if is_choice or not span else span
        keys[name] = Key(
            _kind(parameter, counts=not is_choice and isinstance(low, int)),
            required,
            default,
            low,
            high,
            choices=tuple(span) if is_choice else (),
            least=0 if default == () else 1,
        )
    return keys


HINTS = ('int', 'float', 'bool', 'str', 'list', 'dict', 'None')
LIST_HINT = re.compile(r'(?:Sequence|list|List|tuple|Tuple|Iterable)\[(int|float|str|bool)(?:, \.\.\.)?\]')


def _kind(parameter: inspect.Parameter, counts: bool) -> str:
    """A `Key.kind` from a type hint, else from the default; `counts`: numbers of it are whole, as its range says."""
    hint = parameter.annotation
    hint = (
        hint.__name__ if isinstance(hint, type) else re.sub(r'(?:typing\.)?Optional\[(\w+)\]', r'\1 | None', str(hint))
    )
    parts = [LIST_HINT.sub(r'list[\1]', part.strip()) for part in hint.split('|')]
    if all(part in HINTS or re.fullmatch(r'list\[\w+\]', part) for part in parts):
        return ' | '.join(parts + ['None'] * (parameter.default is None and 'None' not in parts))
    default = parameter.default
    if isinstance(default, bool) or (isinstance(default, str) and default):
        return type(default).__name__
    if _is_number(default) or (default is parameter.empty and counts):
        return 'int' if counts else 'float'
    if isinstance(default, (list, tuple)) and all(map(_is_number, default)):
        return 'list[float]'
    return 'any'


def _is_number(value: object) -> bool:
    return (
        isinstance(value, (int, float, Fraction))
        and not isinstance(value, bool)
        and (not isinstance(value, float) or math.isfinite(value))
    )


def _is_folder_name(value: object) -> bool:
    """Whether it is safe, and leaves room for what the toolbox appends, as a folder and as a part of file names."""
    if not isinstance(value, str) or value in ('', '.', '..') or value != value.strip():
        return False
    return value.isprintable() and not set('/\\') & set(value) and len(value.encode()) <= 200


def _wants_quotes(kind: str, value: object) -> bool:
    if isinstance(value, list):
        return 'list[str]' in kind and any(map(_is_number, value))
    return _is_number(value) and bool({'str', 'name'} & set(kind.split(' | ')))


def _shorten(value: object) -> str:
    if value is None:
        return 'empty (~)'
    text = repr(dict(value)) if isinstance(value, Mapping) else repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'
