// Swagger UI for the service's OpenAPI document. API keys are kept only in memory.

const address = new URL("openapi.json", import.meta.url);

const spec = await (await fetch(address)).json();
// Unless the service knows its path prefix, its routes are in the same directory as this file.
spec.servers ??= [{ url: new URL(".", address).pathname.replace(/\/$/, "") || "/" }];

globalThis.SwaggerUIBundle({
  spec,
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null, // do not send the document's address to swagger.io
});
