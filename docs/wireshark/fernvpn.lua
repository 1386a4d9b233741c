-- fernvpn in Wireshark: frames, the token fields that anybody can read, and records. Opens nothing: that is for
-- `fernvpn capture`. docs/PROTOCOL.md, sections 3, 4 and 6.
--
--   | length u32 | body |     ClientHello: id, 8 bytes, and a token. ServerHello: a token. Afterwards records.

local fernvpn = Proto("fernvpn", "fernvpn")

local HEADER, MAX_BODY, MAX_HELLO, ID, TAG = 4, 87500, 1024, 8, 16

local f = {
    length = ProtoField.uint32("fernvpn.length", "Length of the body"),
    id = ProtoField.bytes("fernvpn.id", "Id of the client's key"),
    token = ProtoField.string("fernvpn.token", "Token"),
    version = ProtoField.uint8("fernvpn.token.version", "Version", base.HEX),
    time = ProtoField.absolute_time("fernvpn.token.time", "Time on the clock of its maker", base.UTC),
    iv = ProtoField.bytes("fernvpn.token.iv", "IV"),
    ciphertext = ProtoField.bytes("fernvpn.ciphertext", "Ciphertext"),
    hmac = ProtoField.bytes("fernvpn.token.hmac", "HMAC"),
    tag = ProtoField.bytes("fernvpn.tag", "Tag"),
    kind = ProtoField.string("fernvpn.kind", "Kind"),
}
fernvpn.fields = { f.length, f.id, f.token, f.version, f.time, f.iv, f.ciphertext, f.hmac, f.tag, f.kind }
fernvpn.prefs.port = Pref.uint("TCP port", 12345, "the server's")

-- The bytes of a token that begins at `at`, or nil if none does: base64url (RFC 4648), 0x80 first, whole blocks.
local function decoded(tvb, at)
    local length = tvb:len() - at
    if length < 100 or length % 4 ~= 0 then return nil end
    local text = tvb:raw(at)
    if text:find("[^%w%-_=]") or text:sub(1, 1) ~= "g" then return nil end
    local bytes = ByteArray.new((text:gsub("-", "+"):gsub("_", "/")), true):base64_decode()
    local blocks = bytes:len() - 25 - 32
    if bytes:get_index(0) ~= 0x80 or blocks < 16 or blocks % 16 ~= 0 then return nil end
    return bytes
end

local function show_token(bytes, range, tree)
    tree = tree:add(f.token, range, range:string():sub(1, 12) .. "…")
    local token = bytes:tvb("token")
    tree:add(f.version, token(0, 1))
    tree:add(f.time, token(1, 8), NSTime.new(token(1, 8):uint64():tonumber(), 0))
    tree:add(f.iv, token(9, 16))
    tree:add(f.ciphertext, token(25, token:len() - 57))
    tree:add(f.hmac, token(token:len() - 32, 32))
end

-- Which hello a body is. The server's is told from a record of suite fernet by being the first that it says.
local function kind_of(body, by_client)
    if body:len() <= MAX_HELLO then
        if by_client and body:len() > ID then
            local token = decoded(body, ID)
            if token then return "ClientHello", token end
        elseif not by_client then
            local token = decoded(body, 0)
            if token then return "ServerHello", token end
        end
    end
    return nil
end

-- What was seen first, by TCP stream and direction: Wireshark dissects a packet as often as it likes.
local first = {}
local stream_of = Field.new("tcp.stream")
function fernvpn.init() first = {} end

local function frame(tvb, pinfo, tree)
    local by_client = pinfo.dst_port == fernvpn.prefs.port
    local body = tvb(HEADER):tvb()
    local key = tostring(stream_of()) .. tostring(by_client)
    first[key] = first[key] or { pinfo.number, tvb:offset() }
    local kind, token
    if first[key][1] == pinfo.number and first[key][2] == tvb:offset() then kind, token = kind_of(body, by_client) end
    local at = kind == "ClientHello" and ID or 0
    token = token or decoded(body, 0)
    kind = kind or (token and "Record (fernet)" or "Record (aes-256-gcm)")

    tree = tree:add(fernvpn, tvb(), "fernvpn, " .. kind .. ", " .. body:len() .. " bytes")
    tree:add(f.length, tvb(0, HEADER))
    tree:add(f.kind, kind):set_generated()
    if at > 0 then tree:add(f.id, body(0, ID)) end
    if token then
        show_token(token, body(at), tree)
    elseif body:len() > TAG then
        tree:add(f.ciphertext, body(0, body:len() - TAG))
        tree:add(f.tag, body(body:len() - TAG))
    end
    pinfo.cols.info:append((tostring(pinfo.cols.info) ~= "" and ", " or "") .. kind)
    return tvb:len()
end

function fernvpn.dissector(tvb, pinfo, tree)
    pinfo.cols.protocol = "fernvpn"
    pinfo.cols.info = ""
    local at = 0
    while at < tvb:len() do
        local rest = tvb:len() - at
        if rest < HEADER then
            pinfo.desegment_offset, pinfo.desegment_len = at, DESEGMENT_ONE_MORE_SEGMENT
            return
        end
        local length = tvb(at, HEADER):uint()
        if length < 1 or length > MAX_BODY then
            tree:add(fernvpn, tvb(at), "no frame of fernvpn begins here")
            return
        end
        if rest < HEADER + length then
            pinfo.desegment_offset, pinfo.desegment_len = at, HEADER + length - rest
            return
        end
        frame(tvb(at, HEADER + length):tvb(), pinfo, tree)
        at = at + HEADER + length
    end
end

local ports = DissectorTable.get("tcp.port")
local port = fernvpn.prefs.port
ports:add(port, fernvpn)
function fernvpn.prefs_changed()
    ports:remove(port, fernvpn)
    port = fernvpn.prefs.port
    ports:add(port, fernvpn)
end
