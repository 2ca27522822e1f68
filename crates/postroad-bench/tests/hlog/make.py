#!/usr/bin/env python3
"""Writes other-tool.hlog with the Python port of HdrHistogram (pip install hdrhistogram), which
shares no code with ours: two intervals of ten seconds, in each 1,000 calls of 1 to 1,000 us."""

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogWriter

with open("other-tool.hlog", "w") as out:
    log = HistogramLogWriter(out)
    log.output_comment("[Logged by the Python port of HdrHistogram]")
    log.output_log_format_version()
    log.output_comment("[StartTime: 1441812279.474 (seconds since epoch)]")
    log.output_legend()
    for number in range(2):
        histogram = HdrHistogram(1, 24 * 60 * 60 * 1000 * 1000, 3)
        for value in range(1, 1001):
            histogram.record_value(value * 1000 * (number + 1))
        log.output_interval_histogram(histogram, 10 * number, 10 * number + 10, 1_000_000)
