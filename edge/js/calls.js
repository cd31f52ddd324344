// The Worker's calls out of WASM on every request, each of which would otherwise be several: passing a string
// over the border costs more than anything that is done with it (BENCHMARKS.md). Nothing is decided here.

/** What is looked at in every request, a line each. Neither a URL nor a header can hold a line break. */
export const describe = (request) => {
  const { method, url, headers } = request;
  return `${method}\n${url}\n${headers.get("origin") ?? ""}\n${headers.get("accept") ?? ""}`;
};

/** Sends `request` on through `fetcher`. Lines of `changes`: the new URL, names to remove (separated by spaces),
 * then name and value of each header to set, in turn. */
export const send = (fetcher, request, changes) => {
  const [url, remove, ...set] = changes.split("\n");
  // A request as the init of another keeps method, headers, body stream, upgrade and manual redirects.
  const outgoing = new Request(url, request);
  const { headers } = outgoing;
  if (remove !== "") for (const name of remove.split(" ")) headers.delete(name);
  for (let i = 0; i < set.length; i += 2) headers.set(set[i], set[i + 1]);
  return fetcher.fetch(outgoing);
};

/** The same, to a machine. An answer without the sidecar's mark, or with a refusal, is none: the caller looks into
 * it on the long way, where `judge` in `forward.rs` decides. */
export const sendToMachine = async (fetcher, request, changes) => {
  const answer = await send(fetcher, request, changes);
  const { headers } = answer;
  if (headers.has("x-automna-sidecar") && !headers.has("x-automna-refusal")) return answer;
  throw new Error("not the sidecar's own answer");
};
