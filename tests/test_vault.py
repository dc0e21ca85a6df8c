"""Secrets at rest: sealed, found again, and never opened with the wrong key."""

from __future__ import annotations

import os
import stat
import threading

import pytest

from app.config import Config
from app.errors import ConfigError
from app.vault import Vault, VaultError, mask, read_or_make_key_file, sha256

KEY = bytes(range(32))


def test_what_was_encrypted_is_decrypted_again():
    vault = Vault(KEY)

    for text in ("sk-1234567890", "", "ключ 🔑", "x" * 100_000):
        assert vault.decrypt(vault.encrypt(text)) == text


def test_encryption_gives_another_result_each_time_and_hides_the_text():
    vault = Vault(KEY)

    first, second = vault.encrypt("sk-secret"), vault.encrypt("sk-secret")
    assert first != second
    assert "sk-secret" not in first
    assert first.isascii()


def test_another_key_or_a_changed_value_is_refused_without_telling_the_secret():
    sealed = Vault(KEY).encrypt("sk-secret")
    for vault, value in [
        (Vault(bytes(32), "the other file"), sealed),
        (Vault(KEY), sealed[:-6] + "AAAA" + sealed[-2:]),
        (Vault(KEY), sealed[:20]),
        (Vault(KEY), "v1."),
        (Vault(KEY), "v1.!!!"),
        (Vault(KEY), "v1.ä"),
        (Vault(KEY), "sk-secret"),
        (Vault(KEY), ""),
    ]:
        with pytest.raises(VaultError) as caught:
            vault.decrypt(value)
        assert "sk-secret" not in str(caught.value)


def test_a_fingerprint_is_the_same_for_the_same_key_and_text_only():
    vault = Vault(KEY)

    assert vault.hmac("a") == Vault(KEY).hmac("a")
    assert vault.hmac("a") != vault.hmac("b")
    assert vault.hmac("a") != Vault(bytes(32)).hmac("a")
    assert vault.hmac("a") != sha256("a")
    assert len(vault.hmac("a")) == 64


def test_the_check_value_tells_a_wrong_key():
    assert Vault(KEY).fits(Vault(KEY).check_value())
    assert not Vault(KEY).fits(Vault(bytes(32)).check_value())
    assert not Vault(KEY).fits(b"")


def test_a_passphrase_is_a_key_when_it_is_long_enough():
    vault = Vault("correct horse battery staple")

    assert Vault("correct horse battery staple").decrypt(vault.encrypt("sk-1")) == "sk-1"
    with pytest.raises(ConfigError) as caught:
        Vault("too short")
    assert caught.value.variable == "ENCRYPTION_KEY"
    assert "too short" not in str(caught.value)


def test_repr_hides_the_key():
    assert "0001" not in repr(Vault(KEY))


def test_masks_show_the_first_and_last_four_characters_only():
    assert mask("sk-1234567890") == "sk-1...7890"
    assert mask("short") == "****"
    assert mask("") == "****"
    assert Vault.mask("sk-1234567890") == "sk-1...7890"


def test_sha256_takes_any_text():
    assert sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert len(sha256("\ud800")) == 64
    assert Vault.sha256("abc") == sha256("abc")


def test_the_key_file_is_made_once_for_the_owner_alone(tmp_path):
    path = tmp_path / "data" / "encryption.key"
    old_umask = os.umask(0)
    try:
        first = read_or_make_key_file(path)
    finally:
        os.umask(old_umask)

    assert read_or_make_key_file(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["encryption.key"]


def test_several_starting_at_once_get_the_same_key(tmp_path):
    path = tmp_path / "encryption.key"
    barrier = threading.Barrier(8)
    found: list[bytes] = []

    def start() -> None:
        barrier.wait()
        found.append(read_or_make_key_file(path))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_folder_without_links_still_gets_a_key_file(tmp_path, monkeypatch):
    def no_links(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)

    assert len(read_or_make_key_file(tmp_path / "encryption.key")) == 32
    assert [entry.name for entry in tmp_path.iterdir()] == ["encryption.key"]


@pytest.mark.parametrize("content", [b"", b"not a key", b"\xff\xfe", b"QUJD\n"])
def test_a_damaged_key_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "encryption.key"
    path.write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        read_or_make_key_file(path)

    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_a_key_file_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError):
        read_or_make_key_file(tmp_path / "file" / "encryption.key")


def test_the_configuration_chooses_passphrase_or_file(tmp_path):
    by_file = Vault.open(Config.from_env({"DB_PATH": str(tmp_path / "keys.db")}))
    by_phrase = Vault.open(Config.from_env({"ENCRYPTION_KEY": "x" * 20}))

    assert by_file.origin == str(tmp_path / "encryption.key")
    assert by_phrase.origin == "ENCRYPTION_KEY"
    assert Vault("x" * 20).fits(by_phrase.check_value())
