// Main module of the Worker: the WASM build behind the guard.
import Edge from "../build/index.js";
import { guarded, instanceWasLost } from "./guard.mjs";

// The handler itself. `new Edge(…)` builds two proxies for each request, which cost more than the request's
// verification; all they do is to bring a lost instance back, so they are used for that alone.
const handle = Edge.prototype.fetch;

const call = (request, env, ctx) =>
  instanceWasLost() ? new Edge(ctx, env).fetch(request) : handle.call({ env, ctx }, request);

// The answer to a request that was under way when the instance was lost. Same shape as every error of ours.
const lost = () => {
  const requestId = `req-${crypto.randomUUID()}`;
  console.error(JSON.stringify({ event: "instance_lost", requestId }));
  const headers = { "cache-control": "no-store", "x-request-id": requestId };
  return Response.json({ error: "Internal error", code: "internal", requestId }, { status: 500, headers });
};

export default {
  fetch: (request, env, ctx) => guarded(() => call(request, env, ctx)).catch(lost),
};
