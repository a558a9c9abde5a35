"""The mends of the rows that are about the server: what stalls it, and how it ends.

Row 23 has none: that a killed worker's request fails cleanly and the next worker answers is
TorchServe's own doing, and its test holds that it stays so.
"""

from __future__ import annotations

from tests.faults.mutations import Mutation

F = "tests/faults/test_faults_"
GUARD = "deploy/torchserve/guard/"

MUTATIONS = [
    Mutation(
        16,
        f"{F}stalls.py -k row_16_a_byte",
        "the bound of a head's time",
        f"{GUARD}client.py",
        "            if since > limits.HEAD_S:",
        "            if False:",
    ),
    Mutation(
        16,
        f"{F}stalls.py -k row_16_a_byte",
        "the least pace of a body",
        f"{GUARD}client.py",
        "            elif since > limits.BODY_S + self._size / limits.RATE:",
        "            elif False:",
    ),
    Mutation(
        17,
        f"{F}stalls.py -k row_17_malformed",
        "a length and chunks together are refused",
        f"{GUARD}http.py",
        'if b"content-length" in named and b"transfer-encoding" in named:',
        "if False:",
    ),
    Mutation(
        18,
        f"{F}stalls.py -k row_18",
        "an abandoned request gives its turn back",
        f"{GUARD}client.py",
        "        if self._turns:\n            self._turns.leave()\n",
        "",
    ),
    Mutation(
        25,
        f"{F}ends.py -k rows_25",
        "the guard ends with the front end",
        f"{GUARD}__main__.py",
        "    while born is not None and life(given.server) == born:",
        "    while True:",
    ),
    Mutation(
        26,
        f"{F}ends.py -k row_26",
        "a process is known by its start time too",
        "deploy/torchserve/state.py",
        "same = abs(process.create_time() - self.started) < 2",
        "same = True",
    ),
    Mutation(
        36,
        f"{F}ends.py -k rows_36",
        "a stop waits for what is in work",
        f"{GUARD}__main__.py",
        "if house.stopping and not house.guests and all(task.done() for task in ending):",
        "if house.stopping:",
    ),
    Mutation(
        39,
        f"{F}stalls.py -k row_39_a_form",
        "the bound of a form's fields",
        f"{GUARD}forms.py",
        "MAX_FIELDS = 64\n",
        "MAX_FIELDS = 64_000_000\n",
    ),
    Mutation(
        39,
        f"{F}stalls.py -k row_39_a_form",
        "a form within a form is refused",
        f"{GUARD}forms.py",
        'if b"multipart/" in head:',
        "if False:",
    ),
    Mutation(
        40,
        f"{F}tensors.py -k row_40_json",
        "JSON has a bound of its own in the guard",
        f"{GUARD}client.py",
        "if self._is_json or (",
        "if (",
    ),
    Mutation(
        40,
        "tests/unit/deploy/torchserve/guard -k never_gets_there",
        "so has a form's JSON",
        f"{GUARD}client.py",
        "(self._form is not None and self._form.has_json)",
        "False",
    ),
    Mutation(
        41,
        f"{F}ends.py -k rows_36",
        "idle connections end at a stop",
        f"{GUARD}client.py",
        "        if self._at is At.HEAD and not self._ahead:\n            self._transport.close()",
        "        pass",
    ),
    Mutation(
        42,
        f"{F}stalls.py -k row_42_half",
        "the bound of an upload's pause",
        f"{GUARD}client.py",
        "            if idle > limits.STALL_S:",
        "            if False:",
    ),
    Mutation(
        42,
        f"{F}stalls.py -k row_42_idle",
        "the bound of an idle connection",
        f"{GUARD}client.py",
        "            if since > limits.IDLE_S:",
        "            if False:",
    ),
    Mutation(
        42,
        f"{F}stalls.py -k row_42_the_slowest",
        "the slowest upload makes room",
        f"{GUARD}house.py",
        "        slow[2].refuse(full)",
        "        raise full",
    ),
    Mutation(
        42,
        f"{F}stalls.py -k row_42_who_has_left",
        "who has left leaves the queue",
        f"{GUARD}client.py",
        "            self.turns.forget(self)",
        "            pass",
    ),
    Mutation(
        42,
        f"{F}stalls.py -k row_42_who_has_left",
        "the bound of what TorchServe has at once",
        f"{GUARD}turns.py",
        "        if self.running < self.most:",
        "        if True:",
    ),
    Mutation(
        42,
        "tests/unit/deploy/torchserve/guard -k makes_place",
        "place for a new connection",
        f"{GUARD}house.py",
        "        return any(guest.give_way(now) for guest in list(islice(self.guests, 100)))",
        "        return False",
    ),
    Mutation(
        43,
        f"{F}ends.py -k rows_25",
        "a worker ends with the front end",
        "deploy/torchserve/worker_site/sitecustomize.py",
        "    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)\n",
        "",
    ),
    Mutation(
        44,
        f"{F}store.py -k row_44_so_says",
        "what is no file is not opened",
        "repack/archive.py",
        "    if kind := KINDS.get(stat.S_IFMT(path.stat().st_mode)):",
        '    if kind := "":',
    ),
]
