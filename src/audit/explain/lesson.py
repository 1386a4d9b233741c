import base64, hashlib, hmac
from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

def u(size, number):                     # an unsigned integer, big-endian
    return number.to_bytes(size, "big")

def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))

def mac(key, message):                   # HMAC-SHA256
    return hmac.digest(key, message, "sha256")

def derive(key, salt, label, size):      # HKDF-SHA256: extract, then expand
    extract = mac(salt, key)
    return mac(extract, b"fernvpn 1 " + label + b"\x01")[:size]

def frame(body):                         # a length, then the body
    return u(4, len(body)) + body

def pad(message):                        # to whole blocks of 16: n bytes of value n
    n = 16 - len(message) % 16
    return message + bytes([n]) * n

def token(key, message, time, iv):       # a Fernet token
    aes = Cipher(algorithms.AES(key[16:]), modes.CBC(iv)).encryptor()
    signed = b"\x80" + u(8, time) + iv + aes.update(pad(message)) + aes.finalize()
    text = base64.urlsafe_b64encode(signed + mac(key[:16], signed))
    assert open_token(key, text) == message          # a library reads it
    return text

def open_token(key, text):               # its message, or an exception
    if base64.urlsafe_b64encode(base64.urlsafe_b64decode(text)) != text:
        raise InvalidToken               # another spelling, which a library may accept
    return Fernet(base64.urlsafe_b64encode(key)).decrypt(text)

def gcm(key, nonce, message):            # the frame of a record, suite aes-256-gcm
    header = u(4, len(message) + 16)     # authenticated with it
    record = header + AESGCM(key).encrypt(nonce, message, header)
    assert open_gcm(key, nonce, record) == message  # the receiver reads it
    return record

def open_gcm(key, nonce, record):        # its message, or an exception
    return AESGCM(key).decrypt(nonce, record[4:], record[:4])

def checksum(data):                      # of IP and ICMP, RFC 1071
    data += bytes(len(data) % 2)
    words = (data[n:n + 2] for n in range(0, len(data), 2))
    total = sum(int.from_bytes(word, "big") for word in words)
    return u(2, -total % 0xffff)         # what makes the sum 0, where carries go around

def refused(check, sent):                # whether a check fails, or something does not open
    try:
        return not check(sent)
    except (InvalidToken, InvalidTag, ValueError):
        return True
