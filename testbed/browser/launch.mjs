// A headless Chromium with a fresh profile that keeps to itself, for the browser tests.
import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const QUIET = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Runs `work` with a page, and ends the browser whatever becomes of it. */
export const withPage = async (modules, executablePath, work) => {
  const { chromium } = createRequire(join(modules, "x.js"))("playwright-core");
  const profile = mkdtempSync(join(tmpdir(), "browser-"));
  const options = { executablePath, headless: true, args: QUIET, viewport: { width: 1280, height: 800 } };
  const context = await chromium.launchPersistentContext(profile, options);
  try {
    await work(context.pages()[0] ?? (await context.newPage()));
  } finally {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  }
};
