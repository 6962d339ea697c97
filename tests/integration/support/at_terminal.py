"""Runs a program at a terminal and answers its first password prompt: at_terminal.py ANSWER PROGRAM ARGS...

The exit code is the program's.
"""
import os, pty, sys

answer, argv = sys.argv[1], sys.argv[2:]
child, terminal = pty.fork()
if child == 0:
    os.execv(argv[0], argv)
output, answered = b"", False
while True:
    try:
        more = os.read(terminal, 4096)
    except OSError:
        break
    if not more:
        break
    output += more
    if not answered and b"(not shown): " in output:
        answered = True
        os.write(terminal, answer.encode() + b"\n")
sys.stdout.buffer.write(output)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
