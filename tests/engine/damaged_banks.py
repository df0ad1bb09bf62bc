"""Ways to damage a bank on disk, drawn at random; every one must keep it from loading.

`python -m tests.engine.damaged_banks --count 10000` tries that many and prints how many of each kind were refused.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from patchcore_engine import bank_store
from patchcore_engine.bank import MANIFEST, MemoryBank
from patchcore_engine.errors import BankError
from patchcore_engine.fit import fit
from tests.engine import parts
from tests.fuzz.scratch import scratch_folder

Damage = Callable[[Path, Path, random.Random], Path | None]


def _any_file(folder: Path, chance: random.Random) -> Path:
    return chance.choice(sorted(folder.iterdir()))


def flip_bits(folder: Path, _other: Path, chance: random.Random) -> None:
    path = _any_file(folder, chance)
    data = bytearray(path.read_bytes())
    for position in chance.sample(range(len(data)), chance.randint(1, 3)):
        data[position] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def cut_a_file(folder: Path, _other: Path, chance: random.Random) -> None:
    path = _any_file(folder, chance)
    os.truncate(path, chance.randrange(path.stat().st_size))


def lengthen_a_file(folder: Path, _other: Path, chance: random.Random) -> None:
    with _any_file(folder, chance).open("ab") as file:
        file.write(chance.randbytes(chance.randint(1, 5000)))


def lose_a_block(folder: Path, _other: Path, chance: random.Random) -> None:
    """A block that a disk never wrote: zeros or rubbish."""
    path = _any_file(folder, chance)
    data = bytearray(path.read_bytes())
    start = chance.randrange(len(data))
    length = min(chance.choice((1, 16, 512, 4096)), len(data) - start)
    block = bytes(length) if any(data[start : start + length]) else b"\1" * length
    data[start : start + length] = block
    path.write_bytes(data)


def exchange_two_files(folder: Path, _other: Path, chance: random.Random) -> None:
    first, second = chance.sample(sorted(folder.iterdir()), 2)
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)


def take_files_of_another_bank(folder: Path, other: Path, chance: random.Random) -> None:
    names = sorted(path.name for path in folder.iterdir())
    for name in chance.sample(names, chance.randint(1, len(names) - 1)):
        (folder / name).write_bytes((other / name).read_bytes())


def take_all_of_another_bank(folder: Path, other: Path, _chance: random.Random) -> None:
    for path in folder.iterdir():
        path.write_bytes((other / path.name).read_bytes())


def remove_a_file(folder: Path, _other: Path, chance: random.Random) -> None:
    _any_file(folder, chance).unlink()


def rename_a_file(folder: Path, _other: Path, chance: random.Random) -> None:
    path = _any_file(folder, chance)
    path.rename(path.with_name(chance.choice((f"{path.name}~", f".{path.name}", path.name.upper(), "x"))))


def add_a_file(folder: Path, _other: Path, chance: random.Random) -> None:
    (folder / chance.choice(("index.faiss.1", ".hidden", "manifest.json~", "weights.pkl"))).write_bytes(b"x")


def add_a_folder(folder: Path, _other: Path, chance: random.Random) -> None:
    (folder / chance.choice(("old", ".git", "parity"))).mkdir()


def link_a_file(folder: Path, other: Path, chance: random.Random) -> None:
    """A link: to the very file, moved away, to another's, to a device that never ends, or to nothing."""
    path = _any_file(folder, chance)
    kept = folder.parent / "kept"
    kept.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(chance.choice((kept, other / path.name, Path("/dev/zero"), Path("nothing"), folder)))


def put_no_file_in_its_place(folder: Path, _other: Path, chance: random.Random) -> None:
    path = _any_file(folder, chance)
    path.unlink()
    chance.choice((path.mkdir, lambda: os.mkfifo(path)))()


def edit_a_value(folder: Path, _other: Path, chance: random.Random) -> None:
    values = json.loads((folder / MANIFEST).read_text())
    edit(values, chance)
    (folder / MANIFEST).write_text(json.dumps(values, indent=2) + "\n")


def edit_a_value_and_the_digest(folder: Path, _other: Path, chance: random.Random) -> None:
    values = json.loads((folder / MANIFEST).read_text())
    digest = values.pop("digest")
    edit(values, chance)
    seal(folder, {**values, "digest": digest})


def damage_a_file_and_its_digests(folder: Path, other: Path, chance: random.Random) -> None:
    """As by a tool that makes the manifest fit whatever lies there."""
    damage = chance.choice((flip_bits, cut_a_file, lose_a_block, take_files_of_another_bank))
    manifest = (folder / MANIFEST).read_bytes()
    damage(folder, other, chance)
    values = json.loads(manifest)
    for name in values["files"]:
        values["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    if (folder / MANIFEST).read_bytes() != manifest:
        values["created"] += "?"
    seal(folder, values)


def space_the_manifest_otherwise(folder: Path, _other: Path, chance: random.Random) -> None:
    text = (folder / MANIFEST).read_text()
    position = chance.choice([index for index, letter in enumerate(text) if letter in " \n"])
    (folder / MANIFEST).write_text(text[:position] + chance.choice(("", "  ", "\t")) + text[position + 1 :])


def repeat_a_key(folder: Path, _other: Path, chance: random.Random) -> None:
    text = (folder / MANIFEST).read_text()
    name, value = chance.choice(list(json.loads(text).items()))
    (folder / MANIFEST).write_text(text.replace("{", f"{{{json.dumps(name)}: {json.dumps(value)},", 1))


def rename_the_folder(folder: Path, other: Path, chance: random.Random) -> Path:
    name = chance.choice((folder.name[:-1] + "?", folder.name[:16], folder.name[:-8] + other.name[-8:], "bank"))
    return folder.rename(folder.with_name(name))


DAMAGES: tuple[Damage, ...] = (
    flip_bits,
    cut_a_file,
    lengthen_a_file,
    lose_a_block,
    exchange_two_files,
    take_files_of_another_bank,
    take_all_of_another_bank,
    remove_a_file,
    rename_a_file,
    add_a_file,
    add_a_folder,
    link_a_file,
    put_no_file_in_its_place,
    edit_a_value,
    edit_a_value_and_the_digest,
    damage_a_file_and_its_digests,
    space_the_manifest_otherwise,
    repeat_a_key,
    rename_the_folder,
)


def edit(values: dict[str, Any], chance: random.Random) -> None:
    """Change one value somewhere in the manifest, take one away or add one."""
    held: Any = values
    while True:
        keys = list(held) if isinstance(held, dict) else list(range(len(held)))
        key = chance.choice(keys)
        if isinstance(held[key], dict | list) and held[key] and chance.random() < 0.9:
            held = held[key]
            continue
        break
    kind = chance.random()
    if kind < 0.1 and isinstance(held, dict):
        del held[key]
    elif kind < 0.2 and isinstance(held, dict):
        held["added"] = 1
    else:
        held[key] = _another(held[key], chance)


def _another(value: Any, chance: random.Random) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return chance.choice((value + 1, value - 1, -value - 1, 2**63, float(value) + 0.5, str(value), None))
        case float():
            return chance.choice((value * 1.0001 + 1e-9, -value - 1, value * 10 + 1, 1e308, str(value), None))
        case str():
            return chance.choice((value + "0", value[1:] + "x", value.upper() + "_", 0, None))
        case _:
            return chance.choice((0, "", [value], {"a": value}))


def seal(folder: Path, values: dict[str, Any]) -> None:
    """Give edited values the digest that belongs to them, as `Manifest.sealed` does."""
    blank = "0" * 64
    if "digest" in values:
        values["digest"] = blank
    text = json.dumps(values, indent=2) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    # By its key: the weights' digest may be as blank.
    (folder / MANIFEST).write_text(text.replace(f'"digest": "{blank}"', f'"digest": "{digest}"'))


def two_banks(folder: Path) -> tuple[Path, Path]:
    """Fit two banks of the same recipe and settings from different pictures."""
    made = []
    for seed in (0, 1):
        pictures = parts.write_good_parts(folder / f"good{seed}", count=12, seed=seed)
        bank = fit(pictures, parts.extractor(), parts.settings(coreset_ratio=0.02)).bank
        made.append(bank_store.save(bank, folder / "banks", "part"))
    return made[0], made[1]


def damaged(bank: Path, other: Path, count: int, seed: int) -> Iterator[tuple[str, Path]]:
    """Yield `count` damaged copies of `bank`, each gone when the next is asked for, with the kind of damage."""
    chance = random.Random(seed)
    with scratch_folder() as scratch:
        for number in range(count):
            home = Path(scratch) / "part"
            shutil.copytree(bank, home / bank.name, copy_function=shutil.copyfile)
            damage = DAMAGES[number % len(DAMAGES)]
            yield damage.__name__, damage(home / bank.name, other, chance) or home / bank.name
            shutil.rmtree(home)


def refusals(bank: Path, other: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Try `count` damaged banks; return how many of each kind were refused, and what loaded all the same."""
    MemoryBank.load(bank)
    refused: Counter[str] = Counter()
    loaded: list[str] = []
    for number, (kind, folder) in enumerate(damaged(bank, other, count, seed)):
        try:
            MemoryBank.load(folder)
        except BankError:
            refused[kind] += 1
        else:
            loaded.append(f"{kind}, number {number} of seed {seed}")
    return refused, loaded


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        refused, loaded = refusals(*two_banks(Path(folder)), asked.count, asked.seed)
    for kind, number in refused.items():
        print(f"{kind.replace('_', ' '):40} {number:6,} refused")
    print(f"{refused.total():,} of {asked.count:,} damaged banks refused, {len(loaded)} loaded {loaded[:5] or ''}")
    raise SystemExit(bool(loaded))


if __name__ == "__main__":
    main()
