# Imported before the first module of this room starts: the hook imports them all at the end of BasicSR's import.
import basicsr  # noqa: F401
