"""The mends of the rows that are about inputs, archives, repacks and the store."""

from __future__ import annotations

from tests.faults.mutations import Mutation

F = "tests/faults/test_faults_"

MUTATIONS = [
    Mutation(
        1, f"{F}pictures.py -k row_01", "bytes that are no picture are told",
        "handlers/images.py",
        """        raise BadInput(
            f"{len(data)} bytes that are no picture{reason}; expected {', '.join(FORMATS)}"
        ) from None""",
        "        raise",
    ),
    Mutation(
        2, f"{F}pictures.py -k row_02", "a JPEG is decoded whole or not at all",
        "handlers/images.py",
        "        picture.load()\n",
        "        from PIL import ImageFile\n\n        ImageFile.LOAD_TRUNCATED_IMAGES = True\n"
        "        picture.load()\n",
    ),
    Mutation(
        2, f"{F}pictures.py -k row_02", "a PNG has its last chunk",
        "handlers/images.py",
        'if picture.format == "PNG" and END_OF_PNG not in data:',
        "if False:",
    ),
    Mutation(
        3, f"{F}pictures.py -k row_03", "the limit of pixels",
        "handlers/images.py",
        "    if width * height > max_pixels:",
        "    if False:",
    ),
    Mutation(
        4, f"{F}pictures.py -k row_04", "the list of formats",
        "handlers/images.py",
        'FORMATS = ("JPEG", "PNG", "WEBP", "BMP")',
        'FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")',
    ),
    Mutation(
        5, f"{F}pictures.py -k row_05_every", "data: URIs are read",
        "handlers/payload.py",
        'encoded = text.partition(",")[2] if text.startswith("data:") else text',
        "encoded = text",
    ),
    Mutation(
        6, f"{F}volumes.py -k row_06", "voxels are finite",
        "handlers/volumes/voxels.py",
        "    if np.isfinite(target).all():",
        "    if True:",
    ),
    Mutation(
        7, f"{F}tensors.py -k row_07_wrong", "rank and sizes are compared",
        "handlers/tensors.py",
        "    if not fits:",
        "    if False:",
    ),
    Mutation(
        7, f"{F}volumes.py -k row_07_channels", "channels lie on one grid",
        "handlers/volumes/reading.py",
        "elif not whole.geometry.same_grid(volume.geometry):",
        "elif False:",
    ),
    Mutation(
        8, f"{F}tensors.py -k row_08", "inputs become contiguous, of the input's own type",
        "handlers/tensors.py",
        "found = np.asarray(value, spec.dtype, order=\"C\")",
        "found = value",
    ),
    Mutation(
        9, f"{F}volumes.py -k row_09_more", "nothing follows the voxels",
        "handlers/volumes/bounds.py",
        "        if self._some(1):",
        "        if False:",
    ),
    Mutation(
        9, f"{F}volumes.py -k row_09_a_bomb", "memory is asked for by the header alone",
        "handlers/segmentation.py",
        """        require(4 * layout.channels * layout.geometry.voxels, self.limit, what)
        require(self._memory(layout).needed, self.limit, what)""",
        "",
    ),
    Mutation(
        10, f"{F}volumes.py -k rows_09_and_10", "compressed data has an end",
        "handlers/volumes/bounds.py",
        "        if self._packed and not self._z.eof:",
        "        if False:",
    ),
    Mutation(
        10, f"{F}series.py -k row_10_series", "slices are missing",
        "handlers/volumes/dicom.py",
        "        if gap > usual * 1.5:",
        "        if False:",
    ),
    Mutation(
        10, f"{F}series.py -k row_10_series", "slices are of one size",
        "handlers/volumes/dicom.py",
        '    **dict.fromkeys(("Rows", "Columns"), "of another size"),\n',
        "",
    ),
    Mutation(
        11, f"{F}pictures.py -k row_11", "an error is its own item's",
        "handlers/base.py",
        "        return found\n\n    def _infer_good",
        "        bad = [d for d in found if isinstance(d, ItemError)]\n"
        "        return bad[:1] * len(rows) or found\n\n    def _infer_good",
    ),
    Mutation(
        12, "tests/unit/handlers/test_base.py -k row_12", "results are counted",
        "handlers/base.py",
        "        if len(results) != len(items):",
        "        if False:",
    ),
    Mutation(
        13, f"{F}limits.py -k row_13", "the limit of a body is set",
        "deploy/torchserve/config.py",
        '        "max_request_size": size,',
        '        "max_request_size": str(1 << 30),',
    ),
    Mutation(
        14, f"{F}volumes.py -k row_14", "an answer is measured before it is sent",
        "handlers/base.py",
        "    if most.isdigit() and size > int(most):",
        "    if False:",
    ),
    Mutation(
        15, f"{F}limits.py -k row_15", "the length of the queue is set",
        "deploy/torchserve/config.py",
        '"job_queue_size": str(settings.queue)',
        '"job_queue_size": "1000"',
    ),
    Mutation(
        19, f"{F}archives.py -k row_19", "a fallback says so",
        "handlers/runtimes/__init__.py",
        "        return Loaded(runtime, runtime.artefact, said)",
        "        return Loaded(runtime, runtime.artefact)",
    ),
    Mutation(
        20, f"{F}archives.py -k row_20_a_worker", "a worker compares checksums",
        "handlers/passport.py",
        "            if found != expected:",
        "            if False:",
    ),
    Mutation(
        21, f"{F}archives.py -k row_21", "a missing library is named with its command",
        "handlers/errors.py",
        'cannot be loaded ({first}): pip install {library}")',
        'cannot be loaded ({first})")',
    ),
    Mutation(
        22, f"{F}volumes.py -k row_22_memory", "a runtime's words for no memory are known",
        "handlers/base.py",
        """NO_MEMORY = ("out of memory", "can't allocate memory")""",
        "NO_MEMORY = ()",
    ),
    Mutation(
        24, f"{F}volumes.py -k row_24", "the response timeout reaches the server",
        "deploy/torchserve/config.py",
        '        "responseTimeout": settings.response_timeout,',
        '        "responseTimeout": 120,',
    ),
    Mutation(
        27, f"{F}ports.py -k row_27", "ports are tried before the server starts",
        "deploy/torchserve/ports.py",
        "        if not is_free(host, port):",
        "        if False:",
    ),
    Mutation(
        28, f"{F}repack.py -k row_28_a_full_disk_leaves", "a draft lies beside the old archive",
        "repack/archive.py",
        "        self.path = Path(name)\n",
        "        Path(name).unlink()\n        self.path = self.target\n",
    ),
    Mutation(
        29, f"{F}archives.py -k row_29", "a truncated archive is called that",
        "repack/archive.py",
        """        raise ArchiveError(
            f"{path.name}: no whole archive ({e}): truncated or damaged, copy or repack it again"
        ) from None""",
        "        raise",
    ),
    Mutation(
        30, f"{F}repack.py -k row_30", "each repack has a temporary file of its own",
        "repack/archive.py",
        'tempfile.mkstemp(".tmp", f".{self.target.name}.", self.target.parent)',
        '(os.open(f"{self.target}.tmp", os.O_CREAT | os.O_RDWR), f"{self.target}.tmp")',
    ),
    Mutation(
        31, f"{F}repack.py -k row_31_a_pickle", "only names on the list are mentioned",
        "repack/sources/pickle_names.py",
        "    return InertClass(full) if in_model or full in INERT else None",
        "    return InertClass(full)",
    ),
    Mutation(
        32, f"{F}archives.py -k rows_32", "no member climbs",
        "repack/archive.py",
        '            or ".." in name.parts\n',
        "",
    ),
    Mutation(
        32, f"{F}archives.py -k rows_32", "no member is a link",
        "repack/archive.py",
        "        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):",
        "        if False:",
    ),
    Mutation(
        33, f"{F}archives.py -k rows_32", "the bound of unpacked bytes",
        "repack/archive.py",
        "    if total > bound:",
        "    if False:",
    ),
    Mutation(
        34, f"{F}ports.py -k row_34_beyond", "a port beyond loopback wants tokens",
        "deploy/torchserve/settings.py",
        "return self.tokens or (self.is_exposed and not self.without_tokens)",
        "return self.tokens",
    ),
    Mutation(
        34, f"{F}ports.py -k row_34_no_or", "tokens are checked",
        "deploy/torchserve/config.py",
        "str(not settings.needs_tokens).lower()",
        '"true"',
    ),
    Mutation(
        35, f"{F}ports.py -k row_35", "the model API is off",
        "deploy/torchserve/config.py",
        '"enable_model_api": "false"',
        '"enable_model_api": "true"',
    ),
    Mutation(
        37, f"{F}updates.py -k new_version_under_load", "a new version is asked a sample first",
        "deploy/torchserve/update.py",
        "        ask_sample(served, archive, at, sample)\n",
        "",
    ),
    Mutation(
        37, f"{F}updates.py -k new_version_under_load", "a version that is not to serve is ended",
        "deploy/torchserve/update.py",
        "            drop(served, at)\n            say",
        "            say",
    ),
    Mutation(
        37, f"{F}updates.py -k request_in_work", "the old version answers what it was asked before",
        "deploy/torchserve/guard/__main__.py",
        "if house.changed and not",
        "if not",
    ),
    Mutation(
        38, "tests/soak -k leak", "the soak's check",
        "tests/support/growth.py",
        "return max(self.by_slope, self.by_level) <= self.allowed(bound)",
        "return True",
    ),
    Mutation(
        38, "tests/soak -k hours_worth", "the front end's young generation has room",
        "deploy/torchserve/config.py",
        '        "-Xmn48m",\n',
        "",
    ),
    Mutation(
        45, f"{F}store.py -k row_45_code", "an archive's code is compared with the kit's",
        "repack/archive.py",
        '    return ", ".join(told)',
        '    return ""',
    ),
    Mutation(
        46, f"{F}bombs.py -k colliding_keys", "numbers beyond the hash's modulus are no keys",
        "repack/sources/pickle_names.py",
        "    if isinstance(key, int) and abs(key) >= sys.hash_info.modulus:",
        "    if False:",
    ),
    Mutation(
        46, f"{F}bombs.py -k colliding_keys", "of tuples only those of texts are keys",
        "repack/sources/pickle_names.py",
        "all(isinstance(k, str) for k in key)",
        "all(isinstance(k, str | int) for k in key)",
    ),
    Mutation(
        46, f"{F}bombs.py -k colliding_keys", "the memo has 32 bits",
        "repack/sources/pickles.py",
        "    if not 0 <= slot < 1 << 32:",
        "    if False:",
    ),
    Mutation(
        46, f"{F}bombs.py -k yaml", "the bound of a YAML file",
        "repack/sources/facts.py",
        "    if len(data) > MAX_YAML_BYTES:",
        "    if False:",
    ),
    Mutation(
        46, f"{F}bombs.py -k texts", "the length of what an expression comes to",
        "repack/sources/bundle.py",
        "    if same and len(left) + len(right) > MAX_LENGTH:",
        "    if False:",
    ),
    Mutation(
        46, f"{F}bombs.py -k products", "the size of what an expression comes to",
        "repack/sources/bundle.py",
        "    if numbers and max(abs(left), abs(right)) > MAX_NUMBER:",
        "    if False:",
    ),
    Mutation(
        46, f"{F}bombs.py -k never_answers", "the time for one answer",
        "repack/patience.py",
        "if time.monotonic() - begin > ANSWER_S:",
        "if False:",
    ),
    Mutation(
        46, f"{F}bombs.py -k never_answers", "the memory for one answer",
        "repack/patience.py",
        "rss) > MEMORY:",
        "rss) < 0:",
    ),
    Mutation(
        47, f"{F}tensors.py -k row_47", "tensors that the model has not are refused",
        "handlers/tensors.py",
        "        if unknown:",
        "        if False:",
    ),
    Mutation(
        47, f"{F}pictures.py -k row_47", "a request has one field",
        "handlers/payload.py",
        "    if len(row) == 1:",
        "    if row:",
    ),
    Mutation(
        47, f"{F}volumes.py -k row_47", "channels are numbered from 0",
        "handlers/volumes/reading.py",
        "        if sorted(numbers) == list(range(len(parts))):",
        "        if len(numbers) == len(parts) and (numbers := dict(enumerate(numbers.values()))):",
    ),
    Mutation(
        48, f"{F}tensors.py -k row_48", "an answer is finite",
        "handlers/tensors.py",
        "        if bad:",
        "        if False:",
    ),
    Mutation(
        48, f"{F}repack.py -k row_48", "answers are compared alone and in a batch",
        "repack/gate.py",
        "            found.refuse_mixed(model)\n",
        "            pass\n",
    ),
    Mutation(
        48, "tests/unit/repack/test_gate_any_model.py -k training_mode",
        "traces of training are looked for",
        "repack/sources/torchscript.py",
        "    if trained:",
        "    if False:",
    ),
    Mutation(
        49, f"{F}store.py -k row_49_a_folder", "the server's locale is not the caller's",
        "deploy/torchserve/config.py",
        '"LC_ALL": "C.UTF-8"',
        '"LC_ALL": "C"',
    ),
    Mutation(
        49, f"{F}store.py -k row_49_a_checkout", "a run folder that cannot be written is told",
        "deploy/torchserve/state.py",
        'raise KitError(f"{run_dir} cannot be written ({e.strerror}): set RUN_DIR") from None',
        "raise",
    ),
    Mutation(
        49, "tests/integration/test_served_openvino.py -k served_precision",
        "what this CPU lacks becomes f32",
        "handlers/runtimes/openvino_.py",
        "        if why := lacks(hint):",
        "        if why := None:",
    ),
]  # fmt: skip
