#!/bin/sh
# As the official image does: other containers may connect, and the server is not root's.
exec setpriv --reuid=redis --regid=redis --init-groups "$@" --protected-mode no --bind 0.0.0.0
