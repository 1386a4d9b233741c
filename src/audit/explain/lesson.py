import base64, hashlib, hmac
from cryptography.fernet import Fernet
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
    assert open_token(key, text) == message
    return text

def open_token(key, text):               # its message, or an exception: any Fernet library does this
    return Fernet(base64.urlsafe_b64encode(key)).decrypt(text)

def gcm(key, nonce, message):            # the frame of a record, suite aes-256-gcm
    header = u(4, len(message) + 16)
    record = header + AESGCM(key).encrypt(nonce, message, header)
    assert open_gcm(key, nonce, record) == message
    return record

def open_gcm(key, nonce, record):        # its message, or an exception
    return AESGCM(key).decrypt(nonce, record[4:], record[:4])
