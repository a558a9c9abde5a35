"""The command line's flags and their help."""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVERS = ("torchserve", "ray", "kserve", "triton", "url")
PERCENTILES = ("mean", "p50", "p90", "p95", "p99", "max")


def parser() -> argparse.ArgumentParser:
    """Flags that depend on the inputs or on other flags are None where they are not given."""
    p = argparse.ArgumentParser(
        prog="python qpstest",
        description="Measures a model in processes of its own and served, finds the highest rate "
        "within a latency limit, the settings for it, and how many machines a rate takes.",
        epilog="qpstest/README.md says what each figure means.",
    )
    _what(p)
    _load(p.add_argument_group("load", "Closed loops (--concurrency) wait for answers; an open "
                               "loop (--rate) sends when a request is due."))  # fmt: skip
    _reports(p.add_argument_group("reports"))
    _served(p.add_argument_group("served (mode 3)", "Where run.sh of this checkout is running, "
                                 "its addresses and tokens are the defaults."))  # fmt: skip
    _local(p.add_argument_group("local (modes 1 and 2)", "The defaults are those of the running "
                                "server, else those that run.sh would take."))  # fmt: skip
    _tune(p.add_argument_group("settings", "Starts servers of its own, one after the other, on "
                               "free ports."))  # fmt: skip
    _files(p.add_argument_group("from earlier JSON files", "Nothing is measured."))
    return p


def _what(p: argparse.ArgumentParser) -> None:
    flag = p.add_argument
    flag("--mode", default="3",
         help="1 the archive's portable TorchScript module, locally; 2 its accelerated "
         "artefact, locally; 3 served; all, or a list such as 2,3 (default 3)")  # fmt: skip
    flag("--name", default="fd1", help="the model's name (default fd1)")
    flag("--input", type=Path, default=ROOT / "examples" / "pictures",
         help="a file, or a folder whose files take turns; files that the model's task cannot "
         "read are named and left out (default examples/pictures)")  # fmt: skip


def _load(group: argparse._ArgumentGroup) -> None:
    flag = group.add_argument
    flag("--concurrency", metavar="LIST",
         help="requests in flight (default 1,4,16; volumes 1,4)")  # fmt: skip
    flag("--rate", metavar="RATES",
         help="requests per second, whatever the server does: 30, a list 10,20,30 or "
         "start:end:step; latency counts from when a request was due")  # fmt: skip
    flag("--arrivals", metavar="HOW",
         help="of --rate: constant, poisson, or a file with a time in seconds in each line "
         "(default constant)")  # fmt: skip
    flag("--latency-limit", metavar="P=MS",
         help="for example p99=50: find the highest rate within it, inside --rate a:b where that "
         "is given; mean, p50, p90, p95, p99 or max")  # fmt: skip
    flag("--requests", type=int, metavar="N",
         help="counted per concurrency or rate; 0 measures nothing (default 200; volumes 8; an "
         "open loop 10 seconds)")  # fmt: skip
    flag("--duration", type=float, default=0.0, metavar="S",
         help="seconds per concurrency or rate, in place of --requests")  # fmt: skip
    flag("--warmup", type=int, metavar="N",
         help="uncounted requests before (default: 10, or 2 x concurrency; volumes 1)")  # fmt: skip
    flag("--stable", action="store_true",
         help="repeat each measurement until throughput and latency (the limit's, else the mean) "
         "of three in a row lie within 10 %% of their mean; those three are reported")  # fmt: skip
    flag("--rounds", type=int, default=1, metavar="N",
         help="measure all modes N times in turn and report each one's median round, where other "
         "work comes and goes on the machine (default 1)")  # fmt: skip
    flag("--max-windows", type=int, default=10, metavar="N",
         help="with --stable: give up after (default 10)")  # fmt: skip
    flag("--clients", type=int, default=1, metavar="N",
         help="processes that make the load (default 1)")  # fmt: skip
    flag("--connections", type=int, default=1000, metavar="N",
         help="most connections of an open loop; further requests wait for one, which counts "
         "(default 1000)")  # fmt: skip
    flag("--seed", type=int, default=1, metavar="N",
         help="of Poisson arrivals, --tune and --plan (default 1)")  # fmt: skip


def _reports(group: argparse._ArgumentGroup) -> None:
    flag = group.add_argument
    flag("--report", choices=("table", "perf"), default="table",
         help="perf: the blocks that perf_analyzer prints, in microseconds "
         "(default table)")  # fmt: skip
    flag("--json", type=Path, metavar="FILE", help="write all figures to this file")
    flag("--csv", type=Path, metavar="FILE", help="write a line for each run to this file")
    flag("--plot", type=Path, metavar="FILE",
         help="draw throughput, latency, one against the other, and where the time goes to this "
         "PNG")  # fmt: skip
    flag("--vis", type=int, choices=(0, 1), default=0,
         help="1: draw what each mode answers, side by side")  # fmt: skip
    flag("--vis-out", type=Path, default=Path("qpstest_vis.png"), metavar="FILE",
         help="the picture that --vis 1 writes (default qpstest_vis.png)")  # fmt: skip


def _served(group: argparse._ArgumentGroup) -> None:
    flag = group.add_argument
    flag("--server", choices=SERVERS, default="torchserve",
         help="the server's kind: kserve and triton speak the Open Inference Protocol (v2), ray "
         "and url get the input as the request's body (default torchserve)")  # fmt: skip
    flag("--protocol", choices=("http", "grpc"), default="http",
         help="grpc: torchserve, kserve and triton (default http)")  # fmt: skip
    flag("--url", help="inference address, in place of --host and --port; with its path for ray "
         "and url")  # fmt: skip
    flag("--host", help="default $HOST or 127.0.0.1")
    flag("--port", type=int,
         help="default $PORT or 8080; ray, kserve and triton: their own default")  # fmt: skip
    flag("--management-url", metavar="URL", help="default: the port after the inference port")
    flag("--metrics-url", metavar="URL", help="default: the second port after it")
    flag("--grpc-port", type=int, metavar="PORT",
         help="default $GRPC_PORT or 7070; kserve and triton: their own default")  # fmt: skip
    flag("--token", help="inference token, where the server asks for one")
    flag("--management-token", metavar="TOKEN", help="for worker memory and batch settings")
    flag("--accept", metavar="TYPE",
         help="media type asked for (default application/json, for volumes application/gzip, a "
         "NIfTI mask; both are checked)")  # fmt: skip
    flag("--timeout", type=float, metavar="S", help="per request (default 60; volumes 600)")


def _local(group: argparse._ArgumentGroup) -> None:
    flag = group.add_argument
    flag("--model-store", type=Path, default=ROOT / "model_store", metavar="DIR",
         help="where NAME.mar is (default model_store)")  # fmt: skip
    flag("--processes", type=int, metavar="N", help="processes that share the cores (workers)")
    flag("--threads", type=int, metavar="N", help="threads of each process")
    flag("--batch", metavar="LIST",
         help="most items that the handler gets at once; 1,4: without, with batching")  # fmt: skip


def _tune(group: argparse._ArgumentGroup) -> None:
    flag = group.add_argument
    flag("--tune", action="store_true",
         help="find the workers, threads, batch size and delay with the highest rate within "
         "--latency-limit (none: the highest throughput)")  # fmt: skip
    flag("--apply", action="store_true",
         help="with --tune: keep what was found as the store's default for this model")  # fmt: skip
    flag("--cores", type=int, metavar="N",
         help="most workers x threads (default: the cores of this machine)")  # fmt: skip
    flag("--memory", type=int, metavar="MB",
         help="most resident memory of all workers, in MB of 10^6 bytes")  # fmt: skip


def _files(group: argparse._ArgumentGroup) -> None:
    flag = group.add_argument
    flag("--compare", type=Path, nargs=2, metavar=("A", "B"),
         help="B against A, ratio by ratio; exit code 3 where B is worse by more than the "
         "tolerance and than the spread of the rounds")  # fmt: skip
    flag("--tolerance", type=float, default=5.0, metavar="PERCENT",
         help="of --compare (default 5)")  # fmt: skip
    flag("--merge", type=Path, nargs="+", metavar="FILE",
         help="the runs of several files with the same load as one, from their "
         "histograms")  # fmt: skip
    flag("--plan", type=Path, nargs="+", metavar="FILE",
         help="how many machines like the measured one serve --rate within --latency-limit: a "
         "simulation of their queues, from closed loops at concurrency 1 and up")  # fmt: skip
    flag("--headroom", type=float, default=30.0, metavar="PERCENT",
         help="of --plan: the share of the rate that is kept free (default 30)")  # fmt: skip
