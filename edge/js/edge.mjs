// Main module of the Worker: the WASM build behind the guard.
import Edge from "../build/index.js";
import { guarded } from "./guard.mjs";

// The answer to a request that was under way when the instance was lost. Same shape as every error of ours.
const lost = () => {
  const requestId = `req-${crypto.randomUUID()}`;
  console.error(JSON.stringify({ event: "instance_lost", requestId }));
  const headers = { "cache-control": "no-store", "x-request-id": requestId };
  return Response.json({ error: "Internal error", code: "internal", requestId }, { status: 500, headers });
};

export default {
  fetch: (request, env, ctx) => guarded(() => new Edge(ctx, env).fetch(request)).catch(lost),
};
