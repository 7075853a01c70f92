-- POST and DELETE in turn. A DELETE names the container of the POST `lag` pairs before it, so that
-- its answer has long arrived on whichever connection it went: each DELETE releases an address.
local lag = 200
local n = 0
local threads = 0

function setup(thread)
    thread:set("worker", threads)
    threads = threads + 1
end

function init(args)
    prefix = string.format("%s%02d", args[1] or "r", worker)
    json = { ["Content-Type"] = "application/json" }
end

local function container(i)
    -- 64 characters, like a container runtime's.
    return string.format("%s%0" .. (64 - #prefix) .. "d", prefix, i)
end

function request()
    n = n + 1
    local i = math.floor((n + 1) / 2)
    if n % 2 == 1 then
        local body = string.format(
            '{"pod-namespace":"default","pod-name":"web-%d","container-id":"%s"}', i, container(i))
        return wrk.format("POST", "/ip", json, body)
    end
    i = math.max(i - lag, 0)
    return wrk.format("DELETE", string.format("/ip/default/web-%d/%s", i, container(i)))
end

function done(summary, latency, requests)
    local bad = summary.errors.status + summary.errors.connect + summary.errors.read
        + summary.errors.write + summary.errors.timeout
    io.write(string.format("RESULT %d %d %f %f %d\n", summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99), bad))
end
