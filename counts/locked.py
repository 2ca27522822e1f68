#!/usr/bin/env python3
"""Counts the locked instructions of a message: locked.py PROGRAM SCENARIO IN_FLIGHT

PROGRAM is a built `counts`. A locked instruction (an atomic read-modify-write) waits until all
stores before it are done: 8 cycles on some processors, 20 and more on others, so their number says
what the number of instructions does not. callgrind runs PROGRAM twice, and what the longer run has
more is divided by the difference in messages; instructions of shared libraries are left out.
"""
import collections
import re
import subprocess
import sys
import tempfile

MESSAGES = 20_000
SHOWN = 0.1


def locked(program):
    """Addresses of locked instructions, and the function that each stands in."""
    command = ["objdump", "--disassemble", "--no-show-raw-insn", "--demangle", program]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found, function = {}, None
    for line in text.splitlines():
        if head := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            function = head[1]
        elif step := re.match(r"\s+([0-9a-f]+):\s+(lock .*|xchg .*\(.*)$", line):
            found[int(step[1], 16)] = function
    return found


def executed(program, scenario, in_flight, messages, folder):
    """How often each instruction of the program itself ran, by address."""
    out = f"{folder}/{messages}"
    command = ["valgrind", "--tool=callgrind", "--dump-instr=yes", f"--callgrind-out-file={out}"]
    command += [program, scenario, str(messages), in_flight]
    subprocess.run(command, check=True, capture_output=True)
    times, objects = collections.Counter(), {}
    address, is_own, is_call = 0, False, False
    with open(out, encoding="utf-8") as lines:
        for line in lines:
            if name := re.match(r"(c?)ob=\((\d+)\)(?: (.*))?", line):
                if name[3]:
                    objects[name[2]] = name[3].strip()
                if not name[1]:
                    is_own = objects[name[2]].endswith("/counts")
            elif line.startswith("calls="):
                is_call = True
            elif cost := re.match(r"(0x[0-9a-f]+|[+-]\d+|\*)\s.*?(\d+)$", line):
                # Addresses are given whole or relative to the last.
                place = cost[1]
                is_whole = place.startswith("0x")
                address = int(place, 16) if is_whole else address + int(place.replace("*", "0"))
                if is_own and not is_call:
                    times[address] += int(cost[2])
                is_call = False
    return times


def main(program, scenario, in_flight):
    with tempfile.TemporaryDirectory() as folder:
        short = executed(program, scenario, in_flight, MESSAGES, folder)
        long = executed(program, scenario, in_flight, 2 * MESSAGES, folder)
    each = collections.Counter()
    for address, function in locked(program).items():
        each[function] += (long[address] - short[address]) / MESSAGES
    print(f"{sum(each.values()):6.2f} locked instructions a message, both ends")
    for function, times in each.most_common():
        if times >= SHOWN:
            print(f"{times:6.2f} {function}")


main(*sys.argv[1:])
