"""Damage to bytes, JSON, tables of text, SQLite databases and safetensors, drawn from a seed.

What the damaged files are read by is not known here.
"""

import json
import os
import random
import sqlite3
import struct
from pathlib import Path
from typing import Any

ODD_NUMBERS = (
    0,
    1,
    127,
    128,
    255,
    256,
    32767,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
)
ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, *ODD_NUMBERS, 2**64, 10**400, -(2**63), 0.5, 1e308, float("nan"), float("inf"),
    "", "\0", "a" * 200_000, "\ud800", "../nowhere", "/nowhere", "hf-hub:no/where", "💥",
    [], {}, [[]],
)  # fmt: skip


def mutate_bytes(data: bytes, chance: random.Random) -> bytes:
    """One to eight changes: bits, bytes, numbers, and parts that are cut, doubled or moved."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
        # Half of the changes go into the first kilobyte, where formats have their headers.
        end = len(changed) if chance.random() < 0.5 else min(len(changed), 1024)
        at = chance.randrange(end) if end else 0
        length = chance.choice((1, 2, 4, 8, 64, 4096))
        match chance.randrange(8):
            case 0 if changed:
                changed[at] ^= 1 << chance.randrange(8)
            case 1 if changed:
                changed[at] = chance.randrange(256)
            case 2:
                form = chance.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
                mask = (1 << (8 * struct.calcsize(form))) - 1
                number = struct.pack(form, chance.choice(ODD_NUMBERS) & mask)
                changed[at : at + len(number)] = number
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length]
            case 5:
                changed[at:at] = chance.randbytes(length)
            case 6:
                changed[at : at + length] = bytes(length)
            case 7 if chance.random() < 0.3:
                del changed[at:]
    return bytes(changed)


def mutate_json(text: str, chance: random.Random) -> str:
    """Replace, remove or wrap values anywhere in a JSON value; rarely, nest it without end."""
    if chance.random() < 0.05:
        return chance.choice(("[", '{"a":')) * 100_000
    try:
        value = json.loads(text)
    except ValueError:
        return text
    for _ in range(chance.choice((1, 1, 2, 4))):
        value = _mutate_value(value, chance)
    return json.dumps(value)


def _mutate_value(value: Any, chance: random.Random) -> Any:
    if not isinstance(value, dict | list) or not value or chance.random() < 0.1:
        if isinstance(value, int | float) and chance.random() < 0.5:
            return value + chance.choice((-1, 1, 7, 1000, 10**6, 10**9))
        return chance.choice(ODD_VALUES)
    key = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
    copy: Any = value.copy()
    if chance.random() < 0.1:
        del copy[key]
    else:
        copy[key] = _mutate_value(copy[key], chance)
    return copy


def mutate_text(data: bytes, chance: random.Random) -> bytes:
    """Lines and cells that are doubled, removed, made long, or in another encoding."""
    lines = data.splitlines(keepends=True) or [b""]
    at = chance.randrange(len(lines))
    match chance.randrange(7):
        case 0:
            lines[at] = lines[at].replace(b",", b"," * chance.choice((0, 2, 1000)))
        case 1:
            lines[at] = lines[at].rstrip(b"\n") * chance.choice((0, 2, 20_000)) + b"\n"
        case 2:
            lines.insert(at, lines[chance.randrange(len(lines))])
        case 3:
            lines[at] = lines[at].replace(b'"', chance.choice((b"", b'""', b"'")))
        case 4:
            encoding = chance.choice(("utf-16", "utf-32", "utf-7", "latin-1", "cp1252"))
            return data.decode("utf-8", "replace").encode(encoding, "replace")
        case 5:
            names = (b"rot13", b"zip", b"utf-7", b"idna", b"no-such", b"UTF-16", b"undefined")
            return data.replace(b"UTF-8", chance.choice(names)).replace(b"utf-8", b"zip")
        case 6:
            return mutate_bytes(data, chance)
    return b"".join(lines)


def mutate_safetensors(data: bytes, chance: random.Random) -> bytes:
    """Change the header of a safetensors file, or weights of it; sometimes to NaN."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], bytearray(data[8 + length :])
    if chance.random() < 0.5:
        header = mutate_json(header.decode(), chance).encode("utf-8", "surrogatepass")
    else:
        at = chance.randrange(max(len(body) - 4096, 1))
        odd = (b"\xff", b"\x7f", b"\0", b"\x00\x7c", b"\x00\x00\x80\x7f", b"\x7b")
        fill = chance.choice(odd) * 4096
        size = chance.choice((2, 4, 64, 4096))
        body[at : at + size] = fill[:size]
    return struct.pack("<Q", len(header)) + header + bytes(body)


def mutate_database(file: Path, chance: random.Random) -> None:
    """Change values, rows, columns and tables of a SQLite database, as far as SQLite allows."""
    database = sqlite3.connect(file)
    try:
        database.execute("PRAGMA writable_schema = ON")
        tables = [
            row[0] for row in database.execute("SELECT name FROM sqlite_schema WHERE type='table'")
        ]
        for _ in range(chance.choice((1, 1, 2, 4))):
            table = chance.choice(tables)
            try:
                _mutate_table(database, table, chance)
            except (sqlite3.Error, OverflowError, UnicodeError):
                pass
        database.commit()
    except sqlite3.Error:
        pass
    finally:
        database.close()


def _mutate_table(database: sqlite3.Connection, table: str, chance: random.Random) -> None:
    columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
    if not columns:  # its definition was damaged before
        return
    column = chance.choice(columns)
    value = chance.choice((*ODD_VALUES[:-3], b"", b"\xff\0", chance.randbytes(99)))
    rows = f'SELECT rowid FROM "{table}"'
    if chance.random() >= 0.3:
        ids = [rowid for (rowid,) in database.execute(rows)]
        rows = str(chance.choice(ids)) if ids else "NULL"
    match chance.randrange(8):
        case 0:
            database.execute(f'DELETE FROM "{table}" WHERE rowid IN ({rows})')
        case 1:
            database.execute(f'DROP TABLE "{table}"')
        case 2:
            database.execute(f'ALTER TABLE "{table}" RENAME COLUMN "{column}" TO "other"')
        case 3:
            database.execute(
                "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = ?",
                [chance.choice(("TEXT", "INTEGER", "BLOB", "FLOAT")), "NUMERIC", table],
            )
        case _:
            database.execute(
                f'UPDATE OR REPLACE "{table}" SET "{column}" = ? WHERE rowid IN ({rows})', [value]
            )


def make_odd(file: Path, chance: random.Random) -> None:
    """Something else in the place of a file: nothing, a folder, a pipe, a link, an endless file."""
    file.unlink()
    match chance.randrange(5):
        case 0:
            file.mkdir()
        case 1:
            os.mkfifo(file)
        case 2:
            file.symlink_to("/dev/zero")
        case 3:
            file.symlink_to(file.name)
