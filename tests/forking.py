"""Runs scripts and modules, each in a process of its own that was forked after BasicSR was imported, which takes
seconds. Reads requests and answers them, a line of JSON each: `start` gives a process id, `wait` its exit code, and
`poll` the exit code or null where it still runs."""

import json
import os
import runpy
import sys

import basicsr.train
import torch.distributed.run

import basicsr_plugins.commands.benchmark
import basicsr_plugins.commands.upscale

_ = basicsr, basicsr_plugins, torch


def become(job):
    """What `python *job['command']` does, in the folder, with the outputs and variables of the job."""
    os.chdir(job['cwd'])
    os.environ.update(job['environment'])
    for number, name in ((0, os.devnull), (1, job['stdout']), (2, job['stderr'])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    is_module = job['command'][0] == '-m'
    sys.argv = job['command'][is_module:]
    sys.path[0] = job['cwd'] if is_module else os.path.dirname(os.path.abspath(sys.argv[0]))
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
        what, value = json.loads(line)
        if what == 'start':
            answer = os.fork()
            if answer == 0:
                become(value)
        else:
            pid, status = os.waitpid(value, os.WNOHANG if what == 'poll' else 0)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), flush=True)


if __name__ == '__main__':
    main()
