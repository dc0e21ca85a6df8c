"""
Encryption of secrets at rest, and the fingerprints by which they are found again.

The key comes from `ENCRYPTION_KEY` or from a file of 32 random bytes that is made once beside the database. From it,
HKDF (RFC 5869) derives one key for each purpose. Values are sealed with AES-256-GCM (NIST SP 800-38D) under a random
96-bit nonce. A value that was changed, or sealed with another key, is refused, never returned as nonsense.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .errors import ConfigError

if TYPE_CHECKING:
    from .config import Config

_PREFIX: Final = "v1."
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
MIN_ENCRYPTION_KEY_CHARS: Final = 16
_HIDDEN: Final = "****"
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EACCES})


class VaultError(Exception):
    """A stored secret cannot be decrypted: it was damaged, or sealed with another key. The text holds no secret."""


def sha256(text: str) -> str:
    """The SHA-256 of `text` in hexadecimal, 64 characters."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def mask(text: str) -> str:
    """The first 4 and the last 4 characters with dots between; nothing of a text shorter than 12 characters."""
    return f"{text[:4]}...{text[-4:]}" if len(text) >= 12 else _HIDDEN


class Vault:
    """
    Seals and opens secrets. Thread-safe, and safe to use after a fork.

    origin -- where the key came from, for error messages: `ENCRYPTION_KEY` or the path of the key file
    """

    sha256 = staticmethod(sha256)
    mask = staticmethod(mask)

    def __init__(self, encryption_key: str | bytes, origin: str = "ENCRYPTION_KEY") -> None:
        """`encryption_key` is a passphrase (text) or key material (at least 32 random bytes)."""
        self.origin = origin
        material = encryption_key if isinstance(encryption_key, bytes) else _stretch(encryption_key)
        self._cipher = AESGCM(_derive(material, b"encryption of stored secrets"))
        self._hmac_key = _derive(material, b"fingerprint of stored secrets")
        self._token_key = _derive(material, b"secrets that are made again")
        self._check = _derive(material, b"check value of the encryption key")

    @classmethod
    def open(cls, config: Config) -> Vault:
        """The vault that `config` asks for; makes the key file where there is none yet.

        Raises ConfigError when the key file cannot be made or read.
        """
        if config.encryption_key is not None:
            return cls(config.encryption_key)
        if config.key_file is None:
            raise ConfigError("ENCRYPTION_KEY", "set it: there is no folder for a key file.")
        return cls(read_or_make_key_file(config.key_file), str(config.key_file))

    def encrypt(self, text: str) -> str:
        """Seal `text`; the same text gives another result each time."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, text.encode("utf-8"), None)
        return _PREFIX + base64.urlsafe_b64encode(nonce + sealed).decode("ascii")

    def decrypt(self, sealed: str) -> str:
        """Open what `encrypt` sealed. Raises VaultError when it was changed or sealed with another key."""
        if not sealed.startswith(_PREFIX):
            raise VaultError("A stored secret is not in the expected form.")
        try:
            data = base64.b64decode(sealed[len(_PREFIX) :].encode("ascii"), b"-_", validate=True)
            return self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], None).decode("utf-8")
        except (InvalidTag, binascii.Error, ValueError) as error:
            raise VaultError(f"A stored secret cannot be decrypted with the key from {self.origin}.") from error

    def hmac(self, text: str) -> str:
        """A fingerprint of `text`, 64 hexadecimal characters, that tells nothing without the key."""
        return hmac.new(self._hmac_key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def derived(self, purpose: str) -> str:
        """A secret for this purpose, 64 hexadecimal characters: always the same, and stored nowhere."""
        return hmac.new(self._token_key, purpose.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def check_value(self) -> bytes:
        """A value that only this key gives; stored so that a wrong key is found at start. It reveals nothing."""
        return self._check

    def fits(self, check_value: bytes) -> bool:
        """Whether `check_value` was made by a vault with the same key."""
        return hmac.compare_digest(self._check, check_value)


def _stretch(passphrase: str) -> bytes:
    """Key material from a passphrase. scrypt (RFC 7914) makes guessing dear; it takes about 50 ms, once."""
    if len(passphrase) < MIN_ENCRYPTION_KEY_CHARS:
        raise ConfigError(
            "ENCRYPTION_KEY",
            f"must have at least {MIN_ENCRYPTION_KEY_CHARS} characters; "
            'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"',
        )
    return hashlib.scrypt(
        passphrase.encode("utf-8", "surrogatepass"), salt=b"ai-api-middleware", n=2**14, r=8, p=1, dklen=_KEY_BYTES
    )


def _derive(material: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=_KEY_BYTES, salt=None, info=purpose).derive(material)


def make_private_folder(folder: Path) -> None:
    """Make `folder`, for its owner alone whatever the umask says; one that exists is left as it is."""
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # some mounted folders have no permissions
            folder.chmod(0o700)


def read_or_make_key_file(path: Path) -> bytes:
    """The 32 bytes of the key file at `path`, which is made (0600) when it does not exist.

    Several processes may do so at once: all get the same bytes. Raises ConfigError when it is not such a file.
    """
    try:
        if not path.exists():
            _make_key_file(path)
        content = path.read_bytes()
        with contextlib.suppress(OSError):  # a mounted secret may belong to somebody else
            path.chmod(0o600)
    except OSError as error:
        raise ConfigError("ENCRYPTION_KEY", f"the key file {path} cannot be used: {error.strerror}.") from error
    try:
        key = base64.urlsafe_b64decode(content.strip())
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise ConfigError("ENCRYPTION_KEY", f"the key file {path} is damaged; restore it from a backup.")
    return key


def _make_key_file(path: Path) -> None:
    make_private_folder(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.urlsafe_b64encode(secrets.token_bytes(_KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        _claim(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _claim(draft: Path, path: Path) -> None:
    """Give `draft` its name, unless another process was quicker; none ever reads half a file."""
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Some mounted folders know no links. Renaming may then replace the file of a process that starts just now.
        with contextlib.suppress(FileNotFoundError):
            if not path.exists():
                draft.rename(path)
