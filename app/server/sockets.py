"""What the system knows about a client's socket, and how it is told to end it. Linux."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import sys
import termios

#: What `epoll` reports of a connection that is gone for good; RDHUP alone is a peer that may still read.
BROKEN = select.EPOLLHUP | select.EPOLLERR


def unread_bytes(sock: socket.socket) -> int:
    """How much the system still holds that the other side has not taken (SIOCOUTQ of tcp(7))."""
    size = bytearray(4)
    fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, size)
    return int.from_bytes(size, sys.byteorder)


def reset_at_close(sock: socket.socket) -> None:
    """Closing it will be a reset: the only way to say that what ends with the connection is not complete."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
