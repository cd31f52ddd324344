// Main module of the Worker: the WASM build behind the guard.
import Edge from "../build/index.js";
import { guarded, instanceWasLost } from "./guard.mjs";

// Called as they are: `new Edge(…)` builds two proxies for each request, which cost more than its verification.
// All they do is to bring a lost instance back, so they are used for that alone.
const { fetch: theLongWay, atOnce } = Edge.prototype;

const call = (request, env, ctx) => {
  if (instanceWasLost()) return new Edge(ctx, env).fetch(request);
  const long = () => theLongWay.call({ env, ctx }, request);
  const answer = atOnce(request, env);
  if (answer === undefined) return long();
  // A back end that could not be reached, or a machine that refused: the long way asks again, and says so.
  return answer instanceof Promise ? answer.catch(long) : answer;
};

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
