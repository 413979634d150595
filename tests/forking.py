"""Runs scripts and modules of the toolbox one after the other, each in a process of its own that was forked after the
toolbox was imported, which takes seconds. Reads jobs and answers with exit codes, a line of JSON each."""

import json
import os
import runpy
import sys

import basicsr.train  # noqa: F401


def become(job):
    """What `python *job['command']` does, in the folder and with the outputs of the job."""
    os.chdir(job['cwd'])
    for number, name in ((0, os.devnull), (1, job['stdout']), (2, job['stderr'])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    is_module = job['command'][0] == '-m'
    sys.argv = job['command'][is_module:]
    try:
        if is_module:
            runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name='__main__')
    except SystemExit:
        raise
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    sys.exit(0)


def main():
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            become(json.loads(line))
        print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])), flush=True)


if __name__ == '__main__':
    main()
