#!/usr/bin/env python3
"""Do the models hold? Finds no attack on the protocol, and must find one on every variant with a planted flaw.

Needs `verifpal` (cargo install verifpal --ignore-rust-version), and `spin` for the ratchet. Both searches are bounded: they
say "no attack found", and never "proved".
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
MODEL = (HERE / "handshake.vp").read_text()

# Name, what is replaced by what, and the query that must fail.
# Leaving out only the server's nonce is not among them. No attack is found then, since its IV is new and hashed as well.
FLAWS = [
    ("a static key: who gets it later reads the recording", [("leaks next_c", "leaks k")], "confidentiality? upload"),
    ("the ratchet does not advance", [("next_c = HKDF(r_c, k, l_next)", "next_c = CONCAT(k, r_c)")],
     "confidentiality? network"),
    ("the role is left out: hellos are reflected", [(", role_client)", ", nil)"), (", role_server)", ", nil)")],
     "authentication? Server -> Client: server_hello"),
    ("the client's nonce is not compared", [("\t_ = ASSERT(echo, nonce_c)?\n", "")], "equivalence? answers, asked"),
    ("nothing in the server's hello is new: no nonce, an IV that can be foretold, the same r",
     [("CONCAT(client_nonce, nonce_s, r)", "CONCAT(client_nonce, zero, r)"),
      ("generates nonce_s, iv_s", "iv_s = HASH(client_nonce)"), ("generates r\n", "knows private r\n")],
     "freshness? record"),
    ("the keys do not depend on the server's hello",
     [("HASH(iv_c, client_hello, iv_s, server_hello)", "HASH(iv_c, client_hello)")],
     "authentication? Client -> Server: finish"),
    ("Finished is not verified",
     [("\tfinish_s = AEAD_DEC(up_s, zero, finish, nil)?\n\t_ = ASSERT(finish_s, finished)?\n",
       "\tfinish_s = AEAD_DEC(up_s, zero, finish, nil)\n")], "authentication? Client -> Server: finish"),
    ("a record is not verified",
     [("upload_s = AEAD_DEC(up_s, one, record, nil)?", "upload_s = AEAD_DEC(up_s, one, record, nil)")],
     "authentication? Client -> Server: record"),
    ("Config is not bound to the session",
     [("HKDF(transcript_s, k, l_server)", "HKDF(nil, k, l_server)"),
      ("HKDF(transcript_c, k, l_server)", "HKDF(nil, k, l_server)")], "authentication? Server -> Client: config"),
]


def alone(text, query):
    """The handshake up to Config with this one query: the search is bounded, and sees more where there is less."""
    return text.split("// 6: records")[0] + f"queries[\n\t{query}\n]\n"


def queries(text):
    return [line.strip() for line in text.split("queries[")[1].splitlines() if "?" in line]


def failing(text):
    """The queries on which an attack was found."""
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder, "model.vp")
        model.write_text(text)
        ran = subprocess.run([TOOL, "verify", "--result-code", model], capture_output=True, text=True, timeout=600)
    code = ran.stdout.strip().splitlines()[-1] if ran.stdout.strip() else ""
    asked = queries(text)
    if ran.returncode or len(code) != 2 * len(asked):
        sys.exit(ran.stdout + ran.stderr)
    return [query for query, verdict in zip(asked, code[1::2]) if verdict == "1"]


def planted(replacements):
    text = MODEL
    for old, new in replacements:
        if old not in text:
            sys.exit(f"the model has no {old!r}")
        text = text.replace(old, new)
    return text


TOOL = shutil.which(os.environ.get("VERIFPAL", "verifpal"))
if not TOOL:
    sys.exit("verifpal is missing: cargo install verifpal --ignore-rust-version")
wrong, broken = failing(MODEL), set()
print("the protocol:", f"ATTACK on {wrong}" if wrong else f"no attack found on {len(queries(MODEL))} queries")
for flaw, replacements, query in FLAWS:
    text = planted(replacements)
    found = failing(text)
    if query not in found and failing(alone(text, query)) and not failing(alone(MODEL, query)):
        found = [query]
    missed = query not in found
    print(f"{flaw}: {'NOT FOUND' if missed else 'found'} ({', '.join(found) or 'nothing'})", flush=True)
    wrong += [flaw] * missed
    broken.update(found)
for query in queries(MODEL):
    if query not in broken:
        print(f"{query}: no flaw breaks it")
        wrong.append(query)


def spin(*flaw):
    """Whether Spin finds a state that breaks an assertion."""
    with tempfile.TemporaryDirectory() as folder:
        run = ["spin", *flaw, "-run", "-m100000", HERE / "ratchet.pml"]
        said = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=600).stdout
    if "errors: " not in said:
        sys.exit(said)
    return "errors: 0" not in said


if shutil.which("spin"):
    for flaw in [(), ("-DFLAW_CLIENT_LATE",), ("-DFLAW_ANY_STEP",)]:
        breaks = spin(*flaw)
        print("the ratchet", *flaw, "- broken" if breaks else "- no history found that breaks it")
        wrong += ["ratchet"] * (breaks != bool(flaw))
else:
    print("spin is missing: the ratchet under loss and crash was not searched")
sys.exit(bool(wrong))
