-- wrk: POST the bodies of the file that BODIES names, one a line, each once; then end.
-- The first request is one that wrk makes for itself and does not send.
local file = assert(io.open(os.getenv("BODIES")))
local headers = { ["content-type"] = "application/json" }
local answered, sent, ended = 0, -1, false

function request()
   if not ended then
      local body = file:read("*l")
      if body ~= nil then
         sent = sent + 1
         return wrk.format("POST", "/v1/attest", headers, body)
      end
      ended = true
   end
   return wrk.format("GET", "/healthz")
end

function response()
   answered = answered + 1
   if ended and answered >= sent then
      os.exit(0)
   end
end
